//! Causal attention over a cache of keys and values, with grouped heads and optional windows, chunks and sinks.
//!
//! ```text
//! p = softmax over lo <= j <= pos of  scale q . k_j,   out = sum of p_j v_j,   lo = max(0, pos + 1 - window)
//! ```
//! Query head `h` reads key head `h / (heads / kv_heads)` (arXiv 1706.03762, 2305.13245). With chunks, `lo` is no
//! less than the first position of the row's own. A sink is one more logit of the softmax (arXiv 2309.17453).
//!
//! Shapes: queries `[tokens, heads, head_dim]`, keys `[kv_heads, capacity, head_dim]`,
//! values `[kv_heads, capacity, value_dim]`, out `[tokens, heads, value_dim]`.
//! Invariants: a row's bits depend on its query and the keys and values that it sees: not on other rows,
//! the capacity, or how a prompt was cut into chunks.

mod tile;
mod together;

use std::ops::Range;

use self::tile::{Finish, Join, OneChunk, ROWS, Rows, SCORES, Softmax, Tile};
use crate::{
    KernelError, Kernels, Pool,
    arch::disjoint::{Cell, Cells, Grid},
    error::{check_len, check_nonzero, rows_in},
};

/// With fewer tiles for each thread some would wait for others, so that chunks are shared out instead.
const TILES_PER_THREAD: usize = 4;

/// The shape of one attention call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionShape {
    /// Query heads; a multiple of `kv_heads`.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// The width of a query and a key.
    pub head_dim: usize,
    /// The width of a value.
    pub value_dim: usize,
    /// Positions for which each head's cache has room.
    pub capacity: usize,
    /// The position of the first query row; row `i` sits at `first_position + i` and sees no later key.
    pub first_position: usize,
    /// The factor of the scores, often `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// How many positions a row sees, its own included; all earlier ones if `None`.
    pub window: Option<usize>,
    /// A row sees no position before the last multiple of this; `None` is no such bound.
    pub chunk: Option<usize>,
    /// From the beginning of a value to that of the next, at least `value_dim`: more where values are columns of
    /// something wider, such as the keys.
    pub value_stride: usize,
}

/// What attention reads.
#[derive(Debug, Clone, Copy)]
pub struct AttentionInputs<'a> {
    /// `[tokens, heads, head_dim]`
    pub queries: &'a [f32],
    /// `[kv_heads, capacity, head_dim]`, filled up to the position of the last query row.
    pub keys: &'a [f32],
    /// `[kv_heads, capacity, value_dim]`, filled likewise, rows `value_stride` apart; ends with the last value.
    pub values: &'a [f32],
    /// One more logit for each head, without a value: `[heads]`.
    pub sinks: Option<&'a [f32]>,
}

/// One of several attention calls: those of sequences that share a batch.
#[derive(Debug)]
pub struct AttentionCall<'a> {
    /// What it reads.
    pub inputs: AttentionInputs<'a>,
    /// Its shape.
    pub shape: AttentionShape,
    /// What is written: `[tokens, heads, value_dim]`.
    pub out: &'a mut [f32],
}

impl AttentionShape {
    /// Checks the inputs and returns the number of tokens.
    fn check(&self, inputs: &AttentionInputs<'_>, out: &[f32]) -> Result<usize, KernelError> {
        check_nonzero("heads", self.heads)?;
        check_nonzero("kv_heads", self.kv_heads)?;
        check_nonzero("head_dim", self.head_dim)?;
        check_nonzero("value_dim", self.value_dim)?;
        check_nonzero("window", self.window.unwrap_or(1))?;
        check_nonzero("chunk", self.chunk.unwrap_or(1))?;
        if self.value_stride < self.value_dim {
            let limit = self.value_stride.saturating_add(1);
            return Err(KernelError::OutOfRange { what: "value_dim", limit, got: self.value_dim });
        }
        check_len("sinks", self.heads, inputs.sinks.map_or(self.heads, <[f32]>::len))?;
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(KernelError::NotAMultiple { what: "heads", got: self.heads, of: self.kv_heads });
        }
        let product =
            |a: usize, b: usize| a.checked_mul(b).ok_or(KernelError::SizeOverflow { rows: a, cols: b });
        let tokens = rows_in("queries", inputs.queries.len(), product(self.heads, self.head_dim)?)?;
        let slots = product(self.kv_heads, self.capacity)?;
        check_len("keys", product(slots, self.head_dim)?, inputs.keys.len())?;
        let gap = self.value_stride - self.value_dim;
        let values = product(slots, self.value_stride)?.saturating_sub(gap);
        check_len("values", values, inputs.values.len())?;
        check_len("out", product(tokens, product(self.heads, self.value_dim)?)?, out.len())?;
        let end = self.first_position.saturating_add(tokens);
        if end > self.capacity {
            let limit = self.capacity.saturating_add(1);
            return Err(KernelError::OutOfRange { what: "first_position + tokens", limit, got: end });
        }
        Ok(tokens)
    }

    /// The positions that a row at `position` sees.
    fn seen(&self, position: usize) -> Range<usize> {
        let windowed = self.window.map_or(0, |window| (position + 1).saturating_sub(window));
        let chunked = self.chunk.map_or(0, |chunk| position / chunk * chunk);
        windowed.max(chunked)..position + 1
    }
}

impl Kernels {
    /// Computes causal attention: out `[tokens, heads, value_dim]`.
    ///
    /// # Errors
    /// If a slice does not fit the shape, `heads` is no multiple of `kv_heads`, a dimension is zero, or the
    /// query rows reach beyond the capacity.
    pub fn attention(
        &self,
        pool: &Pool,
        inputs: &AttentionInputs<'_>,
        shape: &AttentionShape,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        self.attention_each(pool, vec![AttentionCall { inputs: *inputs, shape: *shape, out }])
    }

    /// Computes several calls, each as [`Kernels::attention`] does alone, with the same bits; threads meet once.
    ///
    /// # Errors
    /// Those of [`Kernels::attention`]; nothing is written then.
    pub fn attention_each(&self, pool: &Pool, calls: Vec<AttentionCall<'_>>) -> Result<(), KernelError> {
        let mut sequences = Vec::with_capacity(calls.len());
        for AttentionCall { inputs, shape, out } in calls {
            let tokens = shape.check(&inputs, out)?;
            if tokens > 0 {
                sequences.push(Sequence::new(Tiles::new(inputs, shape, tokens), out));
            }
        }
        // The number of the first task of each sequence, and the end.
        let mut firsts = vec![0];
        firsts.extend(sequences.iter().scan(0, |end, sequence| {
            *end += sequence.cells.len();
            Some(*end)
        }));
        let n_tiles = firsts[sequences.len()];
        if n_tiles < TILES_PER_THREAD * pool.threads() {
            return self.attend_by_chunks(pool, &sequences);
        }
        pool.for_each(n_tiles, |index| {
            let of = firsts.partition_point(|first| *first <= index) - 1;
            let (tile, cell) = sequences[of].take(index - firsts[of]);
            self.attend_in_order(&tile, cell);
        });
        Ok(())
    }

    /// One task computes all chunks of a tile.
    fn attend_in_order(&self, tile: &Tile<'_>, cell: Cell<'_>) {
        let (rows, width) = (tile.queries.len(), tile.values.width);
        let len = Softmax::len(rows, width);
        let mut numbers = vec![0.0; 2 * len + SCORES];
        let (joined, rest) = numbers.split_at_mut(len);
        let (next, scores) = rest.split_at_mut(len);
        let (mut softmax, mut next) = (Softmax::of(joined, width), Softmax::of(next, width));
        softmax.clear();
        for chunk in tile.chunks() {
            self.run(OneChunk { tile, chunk, scores, softmax: &mut next });
            self.run(Join { softmax: &mut softmax, next: &next });
        }
        self.finish(tile, softmax, cell);
    }

    /// Every chunk of every tile is a task, for there are fewer tiles than threads want; then chunks are joined.
    fn attend_by_chunks(&self, pool: &Pool, sequences: &[Sequence<'_>]) -> Result<(), KernelError> {
        let tiles = sequences.iter().flat_map(|of| (0..of.cells.len()).map(|index| of.take(index)));
        let (all, cells): (Vec<_>, Vec<_>) = tiles.unzip();
        let chunks: Vec<_> = all
            .iter()
            .enumerate()
            .flat_map(|(tile, of)| of.chunks().map(move |chunk| (tile, chunk)))
            .collect();
        let len_of = |tile: &Tile<'_>| Softmax::len(tile.queries.len(), tile.values.width);
        let len = all.iter().map(len_of).max().unwrap_or(0);
        let too_large = KernelError::SizeOverflow { rows: chunks.len(), cols: len };
        let total = chunks.len().checked_mul(len).ok_or(too_large)?;
        let mut numbers = Vec::new();
        let bytes = total.saturating_mul(size_of::<f32>());
        numbers.try_reserve_exact(total).map_err(|_| KernelError::OutOfMemory { bytes })?;
        numbers.resize(total, 0.0);
        let partial =
            Grid::new(&mut numbers, len.max(1), (0..=chunks.len()).collect(), len.max(1)).by_number();
        pool.for_each(chunks.len(), |index| {
            let (tile, chunk) = chunks[index];
            let tile = &all[tile];
            let mut cell = partial.take(index);
            let mut softmax = Softmax::of(&mut cell.row(index)[..len_of(tile)], tile.values.width);
            let scores = &mut vec![0.0; SCORES];
            self.run(OneChunk { tile, chunk, scores, softmax: &mut softmax });
        });
        let mut partial = chunks.iter().zip(numbers.chunks_exact_mut(len.max(1))).peekable();
        for (index, (tile, cell)) in all.iter().zip(cells).enumerate() {
            let (len, width) = (len_of(tile), tile.values.width);
            let mut joined = vec![0.0; len];
            let mut softmax = Softmax::of(&mut joined, width);
            softmax.clear();
            while let Some((_, next)) = partial.next_if(|((of, _), _)| *of == index) {
                let next = Softmax::of(&mut next[..len], width);
                self.run(Join { softmax: &mut softmax, next: &next });
            }
            self.finish(tile, softmax, cell);
        }
        Ok(())
    }

    /// Writes the means of a tile's values.
    fn finish(&self, tile: &Tile<'_>, mut softmax: Softmax<'_>, mut cell: Cell<'_>) {
        self.run(Finish { softmax: &mut softmax, sinks: tile.sinks });
        let heads = cell.columns().len();
        for (token, means) in cell.rows().zip(softmax.sums().chunks_exact(heads)) {
            cell.row(token).copy_from_slice(means);
        }
    }
}

/// One call: its tiles, and where their results belong.
struct Sequence<'a> {
    tiles: Tiles<'a>,
    cells: Cells<'a>,
    /// Runs of tokens.
    runs: usize,
}

impl<'a> Sequence<'a> {
    fn new(tiles: Tiles<'a>, out: &'a mut [f32]) -> Self {
        let Tiles { shape, tokens, heads, .. } = tiles;
        let row_len = shape.heads * shape.value_dim;
        let row_bounds: Vec<_> =
            (0..out.len() / row_len).step_by(tokens).chain([out.len() / row_len]).collect();
        let runs = row_bounds.len() - 1;
        let cells = Grid::new(out, row_len, row_bounds, heads * shape.value_dim).by_number();
        Self { tiles, cells, runs }
    }

    /// Takes a tile, of which each can be taken once. Neighbours in number read the same keys and values, which so stay
    /// in nearby caches; late tiles, which see most, come before early ones.
    fn take(&self, index: usize) -> (Tile<'a>, Cell<'_>) {
        let across = self.cells.len() / self.runs;
        let (run, column) = (self.runs - 1 - index % self.runs, index / self.runs);
        let cell = self.cells.take(run * across + column);
        (self.tiles.tile(&cell), cell)
    }
}

/// How an attention call is cut into tiles: some tokens by some heads that share keys.
struct Tiles<'a> {
    inputs: AttentionInputs<'a>,
    shape: AttentionShape,
    /// Tokens of a tile.
    tokens: usize,
    /// Heads of a tile.
    heads: usize,
}

impl<'a> Tiles<'a> {
    fn new(inputs: AttentionInputs<'a>, shape: AttentionShape, tokens: usize) -> Self {
        let group = shape.heads / shape.kv_heads;
        let heads = (1..=ROWS.min(group)).rev().find(|&heads| group.is_multiple_of(heads)).unwrap_or(1);
        Self { inputs, shape, tokens: (ROWS / heads).min(tokens), heads }
    }

    /// The tile whose results a cell takes.
    fn tile(&self, cell: &Cell<'_>) -> Tile<'a> {
        let Self { inputs, shape, .. } = *self;
        let heads = cell.columns().start / shape.value_dim..cell.columns().end / shape.value_dim;
        let kv_head = heads.start / (shape.heads / shape.kv_heads);
        let rows = |values: &'a [f32], width: usize, stride: usize| {
            let first = kv_head * shape.capacity * stride;
            let values = &values[first..][..(shape.capacity - 1) * stride + width];
            Rows { values, width, stride }
        };
        let query = |token: usize, head: usize| {
            let query = &inputs.queries[(token * shape.heads + head) * shape.head_dim..][..shape.head_dim];
            (query, shape.seen(shape.first_position + token))
        };
        let queries: Vec<_> =
            cell.rows().flat_map(|token| heads.clone().map(move |head| query(token, head))).collect();
        Tile {
            columns: together::columns(&queries),
            queries,
            keys: rows(inputs.keys, shape.head_dim, shape.head_dim),
            values: rows(inputs.values, shape.value_dim, shape.value_stride),
            sinks: inputs.sinks.map_or(&[], |sinks| &sinks[heads]),
            scale: shape.scale,
        }
    }
}
