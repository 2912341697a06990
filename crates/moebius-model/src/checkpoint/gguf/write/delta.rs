//! The orders in which files have the heads of a gated delta rule.
//!
//! Checkpoints pack queries, keys, values and gates by key head (Qwen3-Next), or keep value heads that share a key head
//! together (Qwen3.5). Files have all queries, all keys, all values and all gates, and in the second case the first value
//! head of every key head, then the second, and so on.

use std::sync::Arc;

use serde_json::{Map, Value};

/// How many heads there are, and how wide they are.
pub(super) struct Heads {
    pub(super) keys: usize,
    pub(super) key_dim: usize,
    pub(super) values: usize,
    pub(super) value_dim: usize,
}

impl Heads {
    /// As config.json says it, with the defaults of the families.
    pub(super) fn of(config: &Map<String, Value>) -> Self {
        let size = |key: &str, usual: u64| config.get(key).and_then(Value::as_u64).unwrap_or(usual) as usize;
        Heads {
            keys: size("linear_num_key_heads", 16).max(1),
            key_dim: size("linear_key_head_dim", 128),
            values: size("linear_num_value_heads", 32),
            value_dim: size("linear_value_head_dim", 128),
        }
    }

    /// Value heads of a key head.
    fn shared(&self) -> usize {
        self.values / self.keys
    }
}

/// Where the rows of queries, keys and values come from, and those of gates, where each key head has all of its own
/// together.
pub(super) fn by_part(heads: &Heads) -> [Arc<[u32]>; 2] {
    let (key, value) = (heads.key_dim, heads.shared() * heads.value_dim);
    let packed = 2 * key + 2 * value;
    let part = |first: usize, width: usize| {
        (0..heads.keys).flat_map(move |head| (0..width).map(move |row| (head * packed + first + row) as u32))
    };
    let mixed = part(0, key).chain(part(key, key)).chain(part(2 * key, value));
    [mixed.collect(), part(2 * key + value, value).collect()]
}

/// Where the rows of value heads come from, `width` of each.
pub(super) fn tiled(heads: &Heads, width: usize) -> Arc<[u32]> {
    let shared = heads.shared();
    let head = |index: usize| (index % heads.keys) * shared + index / heads.keys;
    let rows = |index: usize| (0..width).map(move |row| (head(index) * width + row) as u32);
    (0..heads.values).flat_map(rows).collect()
}

/// The same for `rows` of which the last are those of value heads.
pub(super) fn after_keys(heads: &Heads, rows: usize) -> Arc<[u32]> {
    let first = rows.saturating_sub(heads.values * heads.value_dim);
    let values = tiled(heads, heads.value_dim);
    (0..first as u32).chain(values.iter().map(|&row| first as u32 + row)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADS: Heads = Heads { keys: 2, key_dim: 1, values: 4, value_dim: 2 };

    #[test]
    fn parts_of_key_heads_are_collected() {
        // Of each key head: query, key, two values of two, two gates of two.
        let [mixed, gates] = by_part(&HEADS);
        assert_eq!(mixed[..], [0, 10, 1, 11, 2, 3, 4, 5, 12, 13, 14, 15]);
        assert_eq!(gates[..], [6, 7, 8, 9, 16, 17, 18, 19]);
    }

    #[test]
    fn first_value_heads_of_every_key_head_come_first() {
        assert_eq!(tiled(&HEADS, 1)[..], [0, 2, 1, 3]);
        assert_eq!(after_keys(&HEADS, 12)[..], [0, 1, 2, 3, 4, 5, 8, 9, 6, 7, 10, 11]);
    }
}
