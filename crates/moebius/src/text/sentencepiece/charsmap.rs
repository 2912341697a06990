//! The table of character rewrites in a SentencePiece model, checked before anything walks it.
//!
//! It is a double-array trie over UTF-8 bytes and a blob of texts that end in NUL: `u32` bytes of trie, the trie in
//! `u32` units, the blob. A unit leads to the unit at `position ^ offset ^ byte`; where it has a leaf, the unit at
//! `position ^ offset` holds where in the blob the replacement begins.
//!
//! Invariants: the tokenizers crate follows these numbers without looking, so every place they can lead to is
//! checked here.

/// Marks a unit that holds a value; no byte leads on from it.
const LEAF: u32 = 1 << 31;

/// Checks the whole table.
///
/// # Errors
/// The first thing that is wrong with it.
pub(super) fn check(map: &[u8]) -> Result<(), String> {
    let broken = |what: &str| format!("its table of character rewrites {what}");
    let (len, rest) = map.split_first_chunk().ok_or_else(|| broken("is cut off"))?;
    let len = u32::from_le_bytes(*len) as usize;
    let (trie, blob) = rest.split_at_checked(len).ok_or_else(|| broken("is cut off"))?;
    let (units, odd) = trie.as_chunks::<4>();
    if units.is_empty() || !odd.is_empty() {
        return Err(broken("is no list of 32-bit units"));
    }
    let blob = std::str::from_utf8(blob).map_err(|_| broken("is not UTF-8"))?;
    let unit = |index: usize| u32::from_le_bytes(units[index]);
    for index in 0..units.len() {
        let value = unit(index);
        if value & LEAF != 0 {
            continue;
        }
        let target = index ^ offset(value);
        if target | 0xff >= units.len() {
            return Err(broken("leads outside itself"));
        }
        let has_leaf = value >> 8 & 1 == 1;
        if has_leaf && !blob.is_char_boundary((unit(target) & !LEAF) as usize) {
            return Err(broken("leads to no text"));
        }
    }
    Ok(())
}

fn offset(unit: u32) -> usize {
    ((unit >> 10) as usize) << ((unit & (1 << 9)) >> 6)
}
