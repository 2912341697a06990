use moebius_expert_kernels::{ForeignFormat, KernelError, PackedMatrix, WeightFormat};
use proptest::prelude::*;

use crate::support::{bits, pool};

/// Blocks of every type with the values that the reference implementation finds in them, see `tests/goldens`.
const GOLDENS: &str = include_str!("../goldens/gguf_blocks.txt");

fn from_hex(text: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).expect("hexadecimal") as u8;
    text.as_bytes().as_chunks::<2>().0.iter().map(|[high, low]| digit(*high) << 4 | digit(*low)).collect()
}

/// Name, blocks and bits of the values of every line.
fn goldens() -> Vec<(&'static str, Vec<u8>, Vec<u32>)> {
    let line = |line: &'static str| {
        let mut parts = line.split(' ');
        let mut part = || parts.next().expect("three parts");
        let (name, blocks, values) = (part(), from_hex(part()), from_hex(part()));
        (name, blocks, values.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect())
    };
    GOLDENS.lines().map(line).collect()
}

/// What a block of a type becomes in its home.
fn rewritten(foreign: ForeignFormat, blocks: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    foreign.transcode(blocks, &mut out).expect("whole blocks");
    out
}

#[test]
fn goldens_of_every_block_type_have_the_bits_of_the_reference() {
    let mut seen = 0;
    for (name, blocks, expected) in goldens() {
        let mut values = vec![f32::NAN; expected.len()];
        match ForeignFormat::ALL.into_iter().find(|foreign| foreign.name() == name) {
            Some(foreign) => foreign.decode(&blocks, &mut values).expect("whole blocks"),
            None => {
                let format: WeightFormat = name.parse().expect("a format of that name");
                format.decode(&blocks, &mut values).expect("whole blocks");
            }
        }
        assert_eq!(bits(&values), expected, "{name}");
        seen += 1;
    }
    let block_formats = WeightFormat::ALL.into_iter().filter(|format| format.block_len() > 1).count();
    assert_eq!(seen, block_formats + ForeignFormat::ALL.len(), "every type has a line");
}

#[test]
fn goldens_have_the_bits_of_the_reference_in_their_homes_as_kernels_hold_them() {
    for (name, blocks, expected) in goldens() {
        let Some(foreign) = ForeignFormat::ALL.into_iter().find(|foreign| foreign.name() == name) else {
            continue;
        };
        let home = rewritten(foreign, &blocks);
        let packed =
            PackedMatrix::pack(&pool(1), foreign.home(), 1, expected.len(), &home).expect("finite values");
        let mut row = vec![f32::NAN; expected.len()];
        packed.row(0, &mut row).expect("the row exists");
        assert_eq!(bits(&row), expected, "{name}");
    }
}

#[test]
fn sizes_are_those_of_gguf_and_blocks_are_as_long_in_their_homes() {
    let sizes = ForeignFormat::ALL.map(|foreign| foreign.bytes_for(3, 512));
    let expected = [3 * 16 * 20, 3 * 16 * 22, 3 * 2 * 110, 3 * 16 * 18].map(Some);
    assert_eq!(sizes, expected);
    for foreign in ForeignFormat::ALL {
        assert_eq!(foreign.block_len(), foreign.home().block_len(), "{foreign}");
        assert_eq!(foreign.bytes_for(3, foreign.block_len() + 1), None, "{foreign}");
        assert_eq!(foreign.bytes_for(usize::MAX, 256), None, "{foreign}");
        assert_eq!(foreign.bytes_for(0, 256), Some(0), "{foreign}");
    }
}

#[test]
fn cut_blocks_are_refused_and_nothing_is_appended() {
    for foreign in ForeignFormat::ALL {
        let (len, size) = (foreign.block_len(), foreign.block_bytes());
        let mut out = vec![7];
        let cut = foreign.transcode(&vec![0; size + 1], &mut out);
        assert_eq!(cut, Err(KernelError::NotAMultiple { what: "bytes", got: size + 1, of: size }));
        assert_eq!(foreign.transcode(&[], &mut out), Ok(()));
        assert_eq!(out, [7], "{foreign}");
        let decode = |bytes, values| foreign.decode(&vec![0; bytes], &mut vec![0.0; values]);
        assert_eq!(decode(0, 0), Ok(()));
        let odd = KernelError::NotAMultiple { what: "values", got: len - 1, of: len };
        assert_eq!(decode(size, len - 1), Err(odd));
        let short = KernelError::Length { what: "bytes", expected: size, got: size - 1 };
        assert_eq!(decode(size - 1, len), Err(short));
    }
}

proptest! {
    /// Whatever bytes a file holds, NaN scales included, both ways give the same bits.
    #[test]
    fn any_blocks_have_the_same_bits_in_their_homes(
        foreign in prop::sample::select(ForeignFormat::ALL.to_vec()),
        seed in prop::collection::vec(any::<u8>(), 220),
        blocks in 1usize..3,
    ) {
        let bytes = &seed[..blocks * foreign.block_bytes()];
        let (mut direct, mut held) = (vec![0.0; blocks * foreign.block_len()], Vec::new());
        foreign.decode(bytes, &mut direct).expect("whole blocks");
        held.resize(direct.len(), 0.0);
        foreign.home().decode(&rewritten(foreign, bytes), &mut held).expect("whole blocks");
        let exact = |values: &[f32]| -> Vec<u32> {
            values.iter().map(|value| if value.is_nan() { f32::NAN.to_bits() } else { value.to_bits() }).collect()
        };
        prop_assert_eq!(exact(&held), exact(&direct));
    }

    /// Rows may come in any cut.
    #[test]
    fn rows_rewritten_one_by_one_are_those_rewritten_together(
        foreign in prop::sample::select(ForeignFormat::ALL.to_vec()),
        bytes in prop::collection::vec(any::<u8>(), 440),
    ) {
        let bytes = &bytes[..bytes.len() / foreign.block_bytes() * foreign.block_bytes()];
        let mut out = Vec::new();
        for block in bytes.chunks(foreign.block_bytes()) {
            foreign.transcode(block, &mut out).expect("whole blocks");
        }
        prop_assert_eq!(out, rewritten(foreign, bytes));
    }
}
