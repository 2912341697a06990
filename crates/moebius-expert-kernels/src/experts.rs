//! Experts over grouped rows: each expert's weights are read once for all of its rows.
//!
//! ```text
//! out[t] = sum over experts e of t, ascending, of  c (down_e (act(gate_e x) * (up_e x)))
//! ```
//! with x = x[t] and c the pair's weight, or x = c x[t] and no factor outside (arXiv 2002.05202, 1701.06538). Without
//! gates the inner vector is act(up_e x). Each matrix may have a bias: `gate_e x` then reads `gate_e x + bias`.
//!
//! Shapes: x and out `[tokens, hidden]`; gate and up `[intermediate, hidden]`, down `[hidden, intermediate]`.
//! Invariants: the inner vector of every pair is complete before any is read; one task owns a run of output
//! columns and adds experts in ascending id, so a token's sum does not depend on its batch.

use std::ops::Range;

use crate::{
    Activation, KernelError, Kernels, PackedMatrix, Pool, WeightFormat,
    arch::{
        LANES,
        disjoint::{Cell, Grid, for_each_share},
    },
    error::{check_len, check_nonzero, rows_in},
    matmul::panels_of,
    rows::{Block, InputRows, RowBlocks},
    shares::{Group, Shares},
    tile::{placed, put},
    vector::{Activate, Glu},
};

/// Rows whose products take as long as reading the weights.
const READING_COST: usize = 8;

/// Numbers that one task adds to the outputs: enough that those of one token stay on the calling thread.
const ADDS_PER_TASK: usize = 64 << 10;

/// The packed weights of every expert of a layer.
#[derive(Debug, Clone)]
pub struct PackedExperts {
    gate: Option<Vec<PackedMatrix>>,
    up: Vec<PackedMatrix>,
    down: Vec<PackedMatrix>,
    biases: ExpertBiases,
    activation: Activation,
}

/// What is added to the products of every expert, one expert after another; nothing where there is `None`.
#[derive(Debug, Clone, Default)]
pub struct ExpertBiases {
    /// `[experts, intermediate]`, added before the activation.
    pub gate: Option<Vec<f32>>,
    /// `[experts, intermediate]`, added before up is multiplied, or activated where there is no gate.
    pub up: Option<Vec<f32>>,
    /// `[experts, hidden]`, added before the pair's weight is multiplied.
    pub down: Option<Vec<f32>>,
}

impl PackedExperts {
    /// Joins one gate (unless there are none), up and down matrix per expert: gate and up `[intermediate, hidden]`,
    /// down `[hidden, intermediate]`. Gate and up share one format, down has one of its own.
    ///
    /// # Errors
    /// [`KernelError::ZeroDimension`] without experts, [`KernelError::Length`] for unequal counts,
    /// [`KernelError::Shape`] and [`KernelError::MixedFormats`] for a matrix that does not fit the first ones,
    /// [`KernelError::MissingGate`] if the activation needs one.
    pub fn new(
        gate: Option<Vec<PackedMatrix>>,
        up: Vec<PackedMatrix>,
        down: Vec<PackedMatrix>,
        activation: Activation,
    ) -> Result<Self, KernelError> {
        check_nonzero("experts", up.len())?;
        check_len("gate", up.len(), gate.as_ref().map_or(up.len(), Vec::len))?;
        check_len("down", up.len(), down.len())?;
        let (intermediate, hidden) = (up[0].rows(), up[0].cols());
        match &gate {
            Some(gate) => check_alike("gate", gate, (intermediate, hidden), up[0].format())?,
            None => activation.check_gateless()?,
        }
        check_alike("up", &up, (intermediate, hidden), up[0].format())?;
        check_alike("down", &down, (hidden, intermediate), down[0].format())?;
        Ok(Self { gate, up, down, biases: ExpertBiases::default(), activation })
    }

    /// The same experts with biases.
    ///
    /// # Errors
    /// [`KernelError::Length`] for a bias that does not fit, [`KernelError::MissingGate`] for the bias of a gate that
    /// is not there.
    pub fn with_biases(self, biases: ExpertBiases) -> Result<Self, KernelError> {
        if self.gate.is_none() && biases.gate.is_some() {
            return Err(KernelError::MissingGate);
        }
        let check = |what, bias: &Option<Vec<f32>>, width: usize| {
            let len = self.n_experts() * width;
            check_len(what, len, bias.as_ref().map_or(len, Vec::len))
        };
        check("bias of gate", &biases.gate, self.intermediate())?;
        check("bias of up", &biases.up, self.intermediate())?;
        check("bias of down", &biases.down, self.hidden())?;
        Ok(Self { biases, ..self })
    }

    /// The number of experts.
    #[must_use]
    pub fn n_experts(&self) -> usize {
        self.up.len()
    }

    /// The width of inputs and outputs.
    #[must_use]
    pub fn hidden(&self) -> usize {
        self.up[0].cols()
    }

    /// The width between up and down.
    #[must_use]
    pub fn intermediate(&self) -> usize {
        self.up[0].rows()
    }

    /// The format of the gate and up matrices.
    #[must_use]
    pub fn format(&self) -> WeightFormat {
        self.up[0].format()
    }
}

/// One expert's part of the biases of all.
fn bias_of(biases: &Option<Vec<f32>>, expert: usize, width: usize) -> Option<&[f32]> {
    biases.as_ref().map(|biases| &biases[expert * width..][..width])
}

/// Adds a bias to sums `[panels, rows, 16]`.
fn add_bias(sums: &mut [[f32; LANES]], panels: &Range<usize>, bias: Option<&[f32]>) {
    let (Some(bias), rows) = (bias, sums.len() / panels.len()) else { return };
    for (panel, sums) in panels.clone().zip(sums.chunks_exact_mut(rows)) {
        for sum in sums {
            sum.iter_mut().zip(&bias[panel * LANES..]).for_each(|(sum, bias)| *sum += bias);
        }
    }
}

/// Fails unless every matrix has one shape and one format.
pub(crate) fn check_alike(
    projection: &'static str,
    matrices: &[PackedMatrix],
    expected: (usize, usize),
    format: WeightFormat,
) -> Result<(), KernelError> {
    for (expert, matrix) in matrices.iter().enumerate() {
        let got = (matrix.rows(), matrix.cols());
        if got != expected {
            return Err(KernelError::Shape { projection, expert, expected, got });
        }
        if matrix.format() != format {
            return Err(KernelError::MixedFormats { projection, expected: format, got: matrix.format() });
        }
    }
    Ok(())
}

/// Which tokens each expert computes: pairs of token and expert, grouped by expert in ascending id.
#[derive(Debug, Clone, Copy)]
pub struct ExpertRows<'a> {
    /// Pairs `offsets[e]..offsets[e + 1]` belong to expert `e`: `[experts + 1]`, from 0 to the pairs' number.
    pub offsets: &'a [usize],
    /// The token of each pair: `[pairs]`.
    pub rows: &'a [u32],
    /// The weight of each pair: `[pairs]`.
    pub weights: &'a [f32],
    /// Whether the weight multiplies the expert's input rather than its output.
    pub weight_on_input: bool,
}

impl ExpertRows<'_> {
    fn check(&self, n_experts: usize, tokens: usize) -> Result<(), KernelError> {
        check_len("offsets", n_experts + 1, self.offsets.len())?;
        check_len("weights", self.rows.len(), self.weights.len())?;
        if self.offsets[0] != 0 {
            return Err(KernelError::OutOfRange { what: "offsets", limit: 1, got: self.offsets[0] });
        }
        if let Some(pair) = self.offsets.windows(2).find(|pair| pair[1] < pair[0]) {
            return Err(KernelError::OutOfRange { what: "offsets", limit: pair[1] + 1, got: pair[0] });
        }
        check_len("rows", self.offsets[n_experts], self.rows.len())?;
        match self.rows.iter().find(|&&token| token as usize >= tokens) {
            Some(&token) => Err(KernelError::OutOfRange { what: "rows", limit: tokens, got: token as usize }),
            None => Ok(()),
        }
    }
}

impl Kernels {
    /// Computes every pair of `rows` and writes the sum of each token's experts: x and out `[tokens, hidden]`.
    /// A token without a pair becomes zero.
    ///
    /// # Errors
    /// [`KernelError::NotAMultiple`], [`KernelError::Length`] or [`KernelError::OutOfRange`] if a slice, an
    /// offset or a token does not fit these shapes.
    pub fn experts(
        &self,
        pool: &Pool,
        x: &[f32],
        bank: &PackedExperts,
        rows: &ExpertRows<'_>,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        rows.check(bank.n_experts(), rows_in("x", x.len(), bank.hidden())?)?;
        check_len("out", x.len(), out.len())?;
        out.fill(0.0);
        self.add_experts(pool, x, bank, rows, out)
    }

    /// As [`Kernels::experts`], and adds the sums to what `out` holds. A bank that is cut into runs of experts gives the
    /// bits of the whole one, if its runs are added in ascending order to zeros.
    ///
    /// # Errors
    /// Those of [`Kernels::experts`].
    pub fn add_experts(
        &self,
        pool: &Pool,
        x: &[f32],
        bank: &PackedExperts,
        rows: &ExpertRows<'_>,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        let (hidden, intermediate) = (bank.hidden(), bank.intermediate());
        let tokens = rows_in("x", x.len(), hidden)?;
        check_len("out", x.len(), out.len())?;
        rows.check(bank.n_experts(), tokens)?;
        if rows.rows.is_empty() {
            return Ok(());
        }
        let layer = Layer::new(*self, pool, bank, rows);
        let inputs = InputRows::new(*self, pool, self.inputs(bank.format()), (hidden, x));
        let inputs = layer.blocks(&inputs, |pair| {
            let factor = if rows.weight_on_input { rows.weights[pair] } else { 1.0 };
            (rows.rows[pair] as usize, factor)
        });
        let mut inner = pool.floats().take(rows.rows.len() * intermediate);
        layer.gate_and_up(&inputs, &mut inner);
        let inner = InputRows::new(*self, pool, self.inputs(bank.down[0].format()), (intermediate, &inner));
        let inner = layer.blocks(&inner, |pair| (pair, 1.0));
        layer.down(&inner, out);
        Ok(())
    }
}

/// One call, checked and with at least one pair.
struct Layer<'a> {
    kernels: Kernels,
    pool: &'a Pool,
    bank: &'a PackedExperts,
    rows: &'a ExpertRows<'a>,
    /// The experts with pairs.
    busy: Vec<usize>,
    /// The first pair of each of them, and the end.
    bounds: Vec<usize>,
}

impl<'a> Layer<'a> {
    fn new(kernels: Kernels, pool: &'a Pool, bank: &'a PackedExperts, rows: &'a ExpertRows<'a>) -> Self {
        let busy: Vec<usize> =
            (0..bank.n_experts()).filter(|&expert| rows.offsets[expert] < rows.offsets[expert + 1]).collect();
        let bounds = busy.iter().map(|&expert| rows.offsets[expert]).chain([rows.rows.len()]).collect();
        Self { kernels, pool, bank, rows, busy, bounds }
    }

    /// Copies a row of inputs for every pair, grouped by busy expert.
    fn blocks(&self, inputs: &InputRows<'_>, source: impl Fn(usize) -> (usize, f32) + Sync) -> RowBlocks<'a> {
        RowBlocks::new(&self.kernels, self.pool, inputs, &self.bounds, source)
    }

    /// Runs `task` with a part of every busy expert's panels of `values` `[pairs, width]` at a time: its place among
    /// the busy ones, and the cell of its pairs and these panels.
    fn for_each_part(&self, values: &mut [f32], width: usize, task: impl Fn(usize, Cell<'_>) + Sync) {
        let panels = width.div_ceil(LANES);
        let cost = |pairs: &[usize]| READING_COST + pairs[1] - pairs[0];
        let shares =
            Shares::new(self.pool, self.bounds.windows(2).map(|pairs| Group { panels, cost: cost(pairs) }));
        let grid = Grid::new(values, width, self.bounds.clone(), LANES);
        for_each_share(self.pool, &shares, &mut [grid], task);
    }

    /// Writes `act(gate x) * (up x)`, or `act(up x)`, for every pair: inner `[pairs, intermediate]`.
    fn gate_and_up(&self, inputs: &RowBlocks<'_>, inner: &mut [f32]) {
        let (kernels, bank, activation) = (self.kernels, self.bank, self.bank.activation);
        self.for_each_part(inner, bank.intermediate(), |group, mut cell| {
            let (expert, columns) = (self.busy[group], cell.columns());
            let (mut sums, mut up) = (Vec::new(), Vec::new());
            let bias = |biases| bias_of(biases, expert, bank.intermediate());
            let (gate_bias, up_bias) = (bias(&bank.biases.gate), bias(&bank.biases.up));
            kernels.for_each_tile(panels_of(&columns), inputs, inputs.group(group), |panels, block| {
                if let Some(gate) = &bank.gate {
                    kernels.multiply(&gate[expert], &panels, &block, &mut sums);
                    kernels.multiply(&bank.up[expert], &panels, &block, &mut up);
                    add_bias(&mut sums, &panels, gate_bias);
                    add_bias(&mut up, &panels, up_bias);
                    kernels.run(Glu { activation, gate: sums.as_flattened_mut(), up: up.as_flattened() });
                } else {
                    kernels.multiply(&bank.up[expert], &panels, &block, &mut sums);
                    add_bias(&mut sums, &panels, up_bias);
                    kernels.run(Activate { activation, x: sums.as_flattened_mut() });
                }
                for (panel, pair, values) in placed(&sums, panels, &block.rows) {
                    let out = &mut cell.row(pair)[panel * LANES - columns.start..];
                    put(out, values, |_, value| value);
                }
            });
        });
    }

    /// Adds `down inner` of every pair to its token's row of `out`.
    fn down(&self, inner: &RowBlocks<'_>, out: &mut [f32]) {
        let read_once = (0..self.busy.len()).all(|group| inner.group(group).len() == 1);
        if read_once { self.down_by_experts(inner, out) } else { self.down_by_columns(inner, out) }
    }

    /// Multiplies expert by expert, whose matrices are long streams then, and adds up afterwards. That takes a row of
    /// memory for every pair.
    fn down_by_experts(&self, inner: &RowBlocks<'_>, out: &mut [f32]) {
        let hidden = self.bank.hidden();
        let mut products = self.pool.floats().take(self.rows.rows.len() * hidden);
        self.for_each_part(&mut products, hidden, |group, mut cell| {
            let (columns, mut sums) = (cell.columns(), Vec::new());
            self.kernels.for_each_tile(panels_of(&columns), inner, inner.group(group), |panels, block| {
                self.multiply_down(group, &panels, &block, &mut sums);
                for (panel, pair, sum) in placed(&sums, panels, &block.rows) {
                    let product = &mut cell.row(pair)[panel * LANES - columns.start..];
                    put(product, sum, |_, sum| sum);
                }
            });
        });
        let panels = (ADDS_PER_TASK / (self.rows.rows.len() * LANES)).max(1);
        let grid = Grid::new(out, hidden, vec![0, out.len() / hidden], panels * LANES).by_number();
        self.pool.for_each(grid.len(), |index| {
            let mut cell = grid.take(index);
            let columns = cell.columns();
            for (pair, product) in products.chunks_exact(hidden).enumerate() {
                let (factor, out) = (self.factor(pair), cell.row(self.rows.rows[pair] as usize));
                out.iter_mut().zip(&product[columns.clone()]).for_each(|(out, value)| *out += factor * value);
            }
        });
    }

    /// Computes some columns of all experts at a time, and adds them at once.
    fn down_by_columns(&self, inner: &RowBlocks<'_>, out: &mut [f32]) {
        let hidden = self.bank.hidden();
        let shares = Shares::new(self.pool, [Group { panels: hidden.div_ceil(LANES), cost: 1 }]);
        let grid = Grid::new(out, hidden, vec![0, out.len() / hidden], LANES);
        for_each_share(self.pool, &shares, &mut [grid], |_, mut cell| {
            let columns = cell.columns();
            for group in 0..self.busy.len() {
                let mut sums = Vec::new();
                let row = |pair: usize| self.rows.rows[pair] as usize;
                self.kernels.for_each_tile(
                    panels_of(&columns),
                    inner,
                    inner.group(group),
                    |panels, block| {
                        let first = panels.start * LANES - columns.start;
                        block
                            .rows
                            .clone()
                            .for_each(|pair| cell.fetch(row(pair), first, panels.len() * LANES));
                        self.multiply_down(group, &panels, &block, &mut sums);
                        for (panel, pair, sum) in placed(&sums, panels, &block.rows) {
                            let out = &mut cell.row(row(pair))[panel * LANES - columns.start..];
                            let factor = self.factor(pair);
                            put(out, sum, |out, sum| out + factor * sum);
                        }
                    },
                );
            }
        });
    }

    /// A panel group of `down inner` of some of a busy expert's pairs: `[panels, rows, 16]`.
    fn multiply_down(
        &self,
        group: usize,
        panels: &Range<usize>,
        block: &Block<'_>,
        sums: &mut Vec<[f32; LANES]>,
    ) {
        let (bank, expert) = (self.bank, self.busy[group]);
        self.kernels.multiply(&bank.down[expert], panels, block, sums);
        add_bias(sums, panels, bias_of(&bank.biases.down, expert, bank.hidden()));
    }

    /// What a pair's output is multiplied with.
    fn factor(&self, pair: usize) -> f32 {
        if self.rows.weight_on_input { 1.0 } else { self.rows.weights[pair] }
    }
}
