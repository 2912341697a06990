//! Arrays of whole numbers as NumPy saves them (`np.save`, format versions 1 to 3).
//!
//! Shapes: three dimensions, in C order: tokens, layers, k.
//! Invariants: the size of the data is compared with the shape before anything is allocated.

/// The first bytes of every such file.
pub(super) const MAGIC: &[u8] = b"\x93NUMPY";

/// Numbers `[tokens, layers, k]`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ids {
    /// Tokens, layers, k.
    pub(super) shape: [usize; 3],
    /// Row-major.
    pub(super) values: Vec<i64>,
}

/// Reads an array.
///
/// # Errors
/// In words, when it is none, or one of another kind.
pub(super) fn parse(bytes: &[u8]) -> Result<Ids, String> {
    let broken = || "npy: it ends within its header".to_owned();
    let after_magic = bytes.strip_prefix(MAGIC).ok_or("npy: expected it to begin with \\x93NUMPY")?;
    let (&[major, _minor], rest) = after_magic.split_first_chunk::<2>().ok_or_else(broken)?;
    let (header_bytes, rest) = match major {
        1 => rest.split_first_chunk::<2>().map(|(len, rest)| (u16::from_le_bytes(*len) as usize, rest)),
        2 | 3 => rest.split_first_chunk::<4>().map(|(len, rest)| (u32::from_le_bytes(*len) as usize, rest)),
        _ => return Err(format!("npy: expected version 1 to 3, got {major}")),
    }
    .ok_or_else(broken)?;
    let (header, data) = rest.split_at_checked(header_bytes).ok_or_else(broken)?;
    let header = String::from_utf8_lossy(header);
    let field = |name: &str| {
        let (_, value) = header.split_once(&format!("'{name}':"))?;
        Some(value.trim_start())
    };
    if field("fortran_order").is_none_or(|value| !value.starts_with("False")) {
        return Err("npy: expected C order".into());
    }
    let element = field("descr").and_then(|value| value.split('\'').nth(1)).unwrap_or_default();
    let read = element_reader(element)
        .ok_or_else(|| format!("npy: expected whole numbers such as `<i4`, got `{element}`"))?;
    let shape =
        field("shape").and_then(|value| value.strip_prefix('(')?.split_once(')')).map(|(shape, _)| shape);
    let sizes: Option<Vec<usize>> = shape.and_then(|shape| {
        shape
            .split(',')
            .map(str::trim)
            .filter(|size| !size.is_empty())
            .map(|size| size.parse().ok())
            .collect()
    });
    let shape = sizes.as_deref().and_then(|sizes| <[usize; 3]>::try_from(sizes).ok());
    let shape = shape.ok_or_else(|| format!("npy: expected three dimensions, got {sizes:?}"))?;
    let (width, read) = read;
    let size = shape.iter().try_fold(width, |size, &n| size.checked_mul(n));
    if size != Some(data.len()) {
        return Err(format!("npy: expected as many bytes as `{shape:?}` of `{element}`, got {}", data.len()));
    }
    Ok(Ids { shape, values: data.chunks_exact(width).map(read).collect() })
}

/// Bytes of an element, and what reads one.
type Element = (usize, fn(&[u8]) -> i64);

fn element_reader(name: &str) -> Option<Element> {
    fn number(bytes: &[u8]) -> i64 {
        bytes.iter().rev().fold(0, |value, &byte| value << 8 | i64::from(byte))
    }
    Some(match name {
        "|i1" => (1, |b| i64::from(number(b) as i8)),
        "|u1" => (1, number),
        "<i2" => (2, |b| i64::from(number(b) as i16)),
        "<u2" => (2, number),
        "<i4" => (4, |b| i64::from(number(b) as i32)),
        "<u4" => (4, number),
        "<i8" => (8, number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `np.save` writes for `shape` of `descr`.
    fn file(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
        let mut bytes = [MAGIC, &[1, 0], &(header.len() as u16).to_le_bytes(), header.as_bytes()].concat();
        bytes.extend_from_slice(data);
        bytes
    }

    #[test]
    fn elements_of_every_width_keep_their_signs() {
        let minus_one = |descr: &str, width: usize| parse(&file(descr, "(1, 1, 2)", &vec![0xff; 2 * width]));
        for (descr, width) in [("|i1", 1), ("<i2", 2), ("<i4", 4), ("<i8", 8)] {
            assert_eq!(minus_one(descr, width).unwrap().values, [-1, -1], "{descr}");
        }
        let largest = [("|u1", 1, 255), ("<u2", 2, 65_535), ("<u4", 4, 4_294_967_295)];
        for (descr, width, largest) in largest {
            assert_eq!(minus_one(descr, width).unwrap().values, [largest; 2], "{descr}");
        }
    }

    #[test]
    fn what_is_no_array_of_ids_is_refused() {
        let refused = |bytes: &[u8], reason: &str| {
            let got = parse(bytes).unwrap_err();
            assert!(got.contains(reason), "{got}");
        };
        refused(b"NUMPY", "begin with");
        let whole = file("<i4", "(1, 1, 2)", &[0; 8]);
        for end in MAGIC.len()..whole.len() - 8 {
            refused(&whole[..end], "header");
        }
        refused(&whole[..whole.len() - 1], "expected as many bytes");
        refused(&file("<f4", "(1, 1, 2)", &[0; 8]), "whole numbers");
        refused(&file("<i4", "(2,)", &[0; 8]), "three dimensions");
        refused(&file("<i4", "(99999999999, 99999999999, 2)", &[0; 8]), "expected as many bytes");
        refused(&file("<i4", "(-1, 1, 2)", &[0; 8]), "three dimensions");
    }
}
