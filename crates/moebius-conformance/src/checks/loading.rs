//! What may be loaded, what is refused, and when memory is given back.

use std::sync::{Mutex, PoisonError};

use moebius_backend::{
    Activation, Backend, Error, ExpertSource, ExpertSpec, LinearSpec, Projection, Result as BackendResult,
    WeightFormat, WeightSpec, WeightView,
};
use moebius_metering::Meter;
use moebius_router::WeightTarget;

use super::linear::for_each_format;
use crate::Failure;
use crate::failure::{ensure, ensure_refused};
use crate::fixtures::{Bank, Matrix, Pages, Samples, expert_spec, fitted, linear_spec, tensor, values_of};

pub fn some_format_is_supported_for_each_kind_of_weight(backend: &dyn Backend) -> Result<(), Failure> {
    let linear = |format| LinearSpec { name: "projection".into(), inputs: 64, outputs: 64, format };
    let some_linear =
        WeightFormat::ALL.into_iter().any(|f| backend.supports(&WeightSpec::Linear(&linear(f))).is_ok());
    ensure(some_linear, || "no format is supported for a projection of 64 x 64".into())?;
    let some_experts = WeightFormat::ALL
        .into_iter()
        .any(|f| backend.supports(&WeightSpec::Experts(&expert_spec(f, 4, (64, 32)))).is_ok());
    ensure(some_experts, || "no format is supported for 4 experts of 64 x 32".into())
}

pub fn what_is_supported_loads_and_what_is_not_does_not(backend: &dyn Backend) -> Result<(), Failure> {
    for_each_format(|format| {
        let mut samples = Samples::new(11);
        for shape in [(1, 1), (3, 15), (16, 17), (65, 100)] {
            let fitting = (shape.0, fitted(shape.1, format));
            let matrix = Matrix::sampled(&mut samples, "projection", format, fitting)?;
            let spec = linear_spec(&matrix);
            let supported = backend.supports(&WeightSpec::Linear(&spec)).is_ok();
            let loaded = backend.load_linear(&spec, matrix.view(), None);
            agree(&WeightSpec::Linear(&spec), supported, loaded.is_ok())?;

            let bank = Bank::sampled(&mut samples, expert_spec(format, 3, shape))?;
            let supported = backend.supports(&WeightSpec::Experts(&bank.spec)).is_ok();
            let loaded = backend.load_experts(&bank.spec, &bank);
            agree(&WeightSpec::Experts(&bank.spec), supported, loaded.is_ok())?;
        }
        Ok(())
    })
}

fn agree(spec: &WeightSpec<'_>, supported: bool, loaded: bool) -> Result<(), Failure> {
    ensure(supported == loaded, || format!("{spec}: supports() says {supported}, loading says {loaded}"))
}

pub fn impossible_sizes_are_refused_before_loading(backend: &dyn Backend) -> Result<(), Failure> {
    for_each_format(|format| {
        for (outputs, inputs) in [(0, 256), (16, 0), (usize::MAX, 512), (1 << 40, 1 << 40)] {
            let spec = LinearSpec { name: "projection".into(), inputs, outputs, format };
            ensure_refused(&format!("{spec:?}"), backend.supports(&WeightSpec::Linear(&spec)))?;
            ensure_refused(&format!("2 of {spec:?}"), backend.supports(&WeightSpec::Heads(&spec, 2)))?;
        }
        for heads in [0, usize::MAX] {
            let spec = LinearSpec { name: "heads".into(), inputs: 256, outputs: 16, format };
            ensure_refused(
                &format!("{heads} of {spec:?}"),
                backend.supports(&WeightSpec::Heads(&spec, heads)),
            )?;
        }
        let activation = Activation::ClampedSwiglu { limit: 7.0 };
        let gateless = ExpertSpec { gated: false, activation, ..expert_spec(format, 4, (16, 16)) };
        ensure_refused(&format!("{gateless:?}"), backend.supports(&WeightSpec::Experts(&gateless)))?;
        for (n_experts, sizes) in [(0, (16, 16)), (4, (0, 16)), (4, (16, 0)), (usize::MAX, (16, 16))] {
            let spec = expert_spec(format, n_experts, sizes);
            ensure_refused(&format!("{spec:?}"), backend.supports(&WeightSpec::Experts(&spec)))?;
        }
        Ok(())
    })
}

pub fn rows_that_are_no_multiple_of_a_block_are_refused_before_loading(
    backend: &dyn Backend,
) -> Result<(), Failure> {
    for_each_format(|format| {
        let block = format.block_len();
        if block == 1 {
            return Ok(());
        }
        for inputs in [1, block - 1, block + 1, 3 * block / 2] {
            let spec = LinearSpec { name: "projection".into(), inputs, outputs: block, format };
            ensure_refused(&format!("{spec:?}"), backend.supports(&WeightSpec::Linear(&spec)))?;
            let whole = expert_spec(format, 4, (block, block));
            for spec in [
                ExpertSpec { hidden: inputs, down_format: WeightFormat::F32, ..whole.clone() },
                ExpertSpec { intermediate: inputs, format: WeightFormat::F32, ..whole.clone() },
            ] {
                ensure_refused(&format!("{spec:?}"), backend.supports(&WeightSpec::Experts(&spec)))?;
            }
        }
        Ok(())
    })
}

pub fn the_pages_of_a_projection_are_released_once(backend: &dyn Backend) -> Result<(), Failure> {
    for_each_supported(backend, |matrix, spec| {
        let pages = Pages::default();
        let linear = backend.load_linear(spec, matrix.view().backed_by(&pages), None)?;
        ensure(pages.releases() == 1 && pages.releases_of(&matrix.bytes) == 1, || {
            format!("expected one release of the whole matrix after loading, got {}", pages.releases())
        })?;
        linear.forward(&tensor(&vec![1.0; matrix.cols], &[1, matrix.cols], &backend.info().device)?)?;
        drop(linear);
        ensure(pages.releases() == 1, || "pages were released again after loading".into())
    })
}

pub fn each_heads_matrix_is_asked_for_and_released_once(backend: &dyn Backend) -> Result<(), Failure> {
    for_each_supported(backend, |matrix, spec| {
        if backend.supports(&WeightSpec::Heads(spec, 3)).is_err() {
            return Ok(());
        }
        let (pages, asked) = (Pages::default(), Mutex::new(Vec::new()));
        let source = |head| {
            asked.lock().unwrap_or_else(PoisonError::into_inner).push(head);
            Ok(matrix.view().backed_by(&pages))
        };
        backend.load_heads(spec, 3, &source)?;
        let mut asked = asked.into_inner().unwrap_or_else(PoisonError::into_inner);
        asked.sort_unstable();
        let released = (pages.releases(), pages.releases_of(&matrix.bytes));
        ensure(asked == [0, 1, 2] && released == (3, 3), || {
            format!(
                "heads {asked:?} of 3 were asked for, {} of {} releases were whole",
                released.1, released.0
            )
        })
    })
}

pub fn each_expert_matrix_is_asked_for_and_released_once(backend: &dyn Backend) -> Result<(), Failure> {
    for_each_kind(backend, |bank| {
        let loaded = backend.load_experts(&bank.spec, &bank)?;
        ensure(*loaded.spec() == bank.spec, || format!("spec() changed: {:?}", loaded.spec()))?;
        for (matrix, asked) in bank.matrices.iter().zip(bank.asked()) {
            let released = bank.pages.releases_of(&matrix.bytes);
            ensure((asked, released) == (1, 1), || {
                format!("`{}` was asked for {asked} times and released {released} times", matrix.name)
            })?;
        }
        Ok(())
    })
}

pub fn views_are_released_when_loading_fails(backend: &dyn Backend) -> Result<(), Failure> {
    for_each_bank(backend, |mut bank| {
        bank.matrices[4].set(7, f32::NAN)?;
        ensure_refused("a bank with a NaN", backend.load_experts(&bank.spec, &bank))?;
        for (matrix, asked) in bank.matrices.iter().zip(bank.asked()) {
            let released = bank.pages.releases_of(&matrix.bytes);
            ensure(asked == released && asked <= 1, || {
                format!("`{}` was asked for {asked} times and released {released} times", matrix.name)
            })?;
        }
        Ok(())
    })
}

pub fn weights_that_are_not_finite_are_errors_that_name_the_tensor(
    backend: &dyn Backend,
) -> Result<(), Failure> {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for_each_supported(backend, |matrix, spec| {
            for index in [0, 16 * matrix.cols, matrix.values.len() - 1] {
                let mut broken =
                    Matrix::new(&*matrix.name, matrix.format, (matrix.rows, matrix.cols), &matrix.values)?;
                broken.set(index, bad)?;
                names_tensor(&matrix.name, backend.load_linear(spec, broken.view(), None))?;
                if backend.supports(&WeightSpec::Heads(spec, 2)).is_ok() {
                    let source = |head| Ok(if head == 0 { matrix.view() } else { broken.view() });
                    names_tensor(&matrix.name, backend.load_heads(spec, 2, &source))?;
                }
            }
            Ok(())
        })?;
        for index in 0..3 {
            for_each_bank(backend, |mut bank| {
                let matrix = &mut bank.matrices[3 + index];
                matrix.set(matrix.values.len() - 1, bad)?;
                names_tensor(&bank.matrices[3 + index].name, backend.load_experts(&bank.spec, &bank))
            })?;
        }
    }
    Ok(())
}

pub fn bytes_that_do_not_fit_are_errors_that_name_the_tensor(backend: &dyn Backend) -> Result<(), Failure> {
    for_each_supported(backend, |matrix, spec| {
        let (shape, bytes) = ((matrix.rows, matrix.cols), &matrix.bytes);
        let longer = [bytes.as_slice(), &[0; 4]].concat();
        for bytes in [&[][..], &bytes[1..], &bytes[..bytes.len() - 4], &longer] {
            let view = WeightView::new(&*matrix.name, matrix.format, shape, bytes);
            names_tensor(&matrix.name, backend.load_linear(spec, view, None))
                .map_err(|failure| failure.at(format!("{} bytes", bytes.len())))?;
        }
        Ok(())
    })?;
    for_each_bank(backend, |mut bank| {
        bank.matrices[5].bytes.pop();
        names_tensor(&bank.matrices[5].name, backend.load_experts(&bank.spec, &bank))
    })
}

pub fn views_that_contradict_the_spec_are_errors(backend: &dyn Backend) -> Result<(), Failure> {
    for_each_supported(backend, |matrix, spec| {
        let mut turned = spec.clone();
        std::mem::swap(&mut turned.inputs, &mut turned.outputs);
        ensure_refused("a transposed matrix", backend.load_linear(&turned, matrix.view(), None))
    })?;
    for_each_bank(backend, |mut bank| {
        std::mem::swap(&mut bank.spec.hidden, &mut bank.spec.intermediate);
        ensure_refused("experts with transposed matrices", backend.load_experts(&bank.spec, &bank))
    })?;
    for_each_bank(backend, |mut bank| {
        bank.matrices.swap(3, 5);
        ensure_refused("an expert with gate and down exchanged", backend.load_experts(&bank.spec, &bank))
    })
}

pub fn a_bias_of_the_wrong_length_is_an_error(backend: &dyn Backend) -> Result<(), Failure> {
    for_each_supported(backend, |matrix, spec| {
        for len in [0, 1, matrix.rows - 1, matrix.rows + 1] {
            let loaded = backend.load_linear(spec, matrix.view(), Some(vec![1.0; len]));
            ensure_refused(&format!("a bias of {len} values for {} outputs", matrix.rows), loaded)?;
        }
        Ok(())
    })
}

/// A source whose biases are a value short or long.
struct Misfit(Bank, Projection, isize);

impl ExpertSource for Misfit {
    fn get(&self, expert: usize, projection: Projection) -> BackendResult<WeightView<'_>> {
        self.0.get(expert, projection)
    }

    fn bias(&self, expert: usize, projection: Projection) -> BackendResult<Vec<f32>> {
        let mut bias = self.0.bias(expert, projection)?;
        if (expert, projection) == (1, self.1) {
            bias.resize(bias.len().saturating_add_signed(self.2), 0.0);
        }
        Ok(bias)
    }
}

pub fn biases_of_experts_that_do_not_fit_are_errors(backend: &dyn Backend) -> Result<(), Failure> {
    for (projection, by) in Projection::ALL.into_iter().flat_map(|part| [-1, 1].map(|by| (part, by))) {
        for_each_kind(backend, |bank| {
            let spec = bank.spec.clone();
            if !(spec.biases && spec.projections().contains(&projection)) {
                return Ok(());
            }
            let loaded = backend.load_experts(&spec, &Misfit(bank, projection, by));
            ensure_refused(&format!("a bias of {projection:?} that is off by {by}"), loaded)
        })?;
    }
    Ok(())
}

/// A source whose last matrix is missing.
struct Incomplete(Bank);

impl ExpertSource for Incomplete {
    fn get(&self, expert: usize, projection: Projection) -> BackendResult<WeightView<'_>> {
        if (expert, projection) == (self.0.spec.n_experts - 1, Projection::Down) {
            return Err(Error::Startup { backend: "source", reason: "a matrix is missing".into() });
        }
        self.0.get(expert, projection)
    }
}

pub fn errors_of_the_source_come_back(backend: &dyn Backend) -> Result<(), Failure> {
    for_each_bank(backend, |bank| {
        let spec = bank.spec.clone();
        match backend.load_experts(&spec, &Incomplete(bank)) {
            Err(Error::Startup { backend: "source", .. }) => Ok(()),
            Err(other) => Err(Failure::Mismatch(format!("expected the error of the source, got `{other}`"))),
            Ok(_) => Err(Failure::Mismatch("a bank was loaded without its last matrix".into())),
        }
    })
}

pub fn views_in_another_format_are_rounded_to_the_specs(backend: &dyn Backend) -> Result<(), Failure> {
    for_each_format(|held| {
        for stored in WeightFormat::ALL.into_iter().filter(|&stored| stored != held) {
            let mut samples = Samples::new(14);
            let cols = fitted(fitted(33, stored), held);
            let matrix = Matrix::sampled(&mut samples, "projection", stored, (19, cols))?;
            let rounded = Matrix::new("projection", held, (19, cols), &matrix.values)?;
            let spec = linear_spec(&rounded);
            if backend.supports(&WeightSpec::Linear(&spec)).is_err() {
                return Ok(());
            }
            let x = tensor(&samples.vector(3 * cols), &[3, cols], &backend.info().device)?;
            let [got, expected] = [&matrix, &rounded].map(|matrix| -> Result<_, Failure> {
                let linear = backend.load_linear(&spec, matrix.view(), None)?;
                let ids: Vec<u32> = (0..19).collect();
                let rows = values_of(&linear.rows(&ids)?, &[19, cols])?;
                Ok([rows, values_of(&linear.forward(&x)?, &[3, 19])?].concat())
            });
            same_bits(&expected?, &got?).map_err(|failure| failure.at(format!("stored in {stored}")))?;
        }
        bank_is_rounded(backend, held)
    })
}

/// Experts whose gate, up and down are stored in several formats.
fn bank_is_rounded(backend: &dyn Backend, held: WeightFormat) -> Result<(), Failure> {
    let mut samples = Samples::new(15);
    let spec = expert_spec(held, 2, (256, 256));
    if backend.supports(&WeightSpec::Experts(&spec)).is_err() {
        return Ok(());
    }
    let mut stored = Bank::sampled(&mut samples, spec.clone())?;
    let formats = WeightFormat::ALL.into_iter().filter(|&stored| stored != held).cycle();
    for (matrix, format) in stored.matrices.iter_mut().zip(formats) {
        *matrix = Matrix::new(&*matrix.name, format, (matrix.rows, matrix.cols), &matrix.values)?;
    }
    let mut rounded = Bank::sampled(&mut samples, spec.clone())?;
    for (rounded, stored) in rounded.matrices.iter_mut().zip(&stored.matrices) {
        *rounded = Matrix::new(&*stored.name, held, (stored.rows, stored.cols), &stored.values)?;
    }
    let routing = samples.routing(3, (2, 2), WeightTarget::Output);
    let x = tensor(&samples.vector(3 * 256), &[3, 256], &backend.info().device)?;
    let [got, expected] = [&stored, &rounded].map(|bank| -> Result<_, Failure> {
        let experts = backend.load_experts(&spec, bank)?;
        values_of(&experts.forward(&x, &routing, &Meter::new())?, &[3, 256])
    });
    same_bits(&expected?, &got?).map_err(|failure| failure.at("experts stored in several formats"))
}

fn same_bits(expected: &[f32], got: &[f32]) -> Result<(), Failure> {
    for (index, (expected, got)) in expected.iter().zip(got).enumerate() {
        ensure(expected.to_bits() == got.to_bits(), || {
            format!("element {index}: expected exactly {expected:e}, got {got:e}")
        })?;
    }
    Ok(())
}

/// Fails unless loading ended with [`Error::Weight`] for this tensor.
fn names_tensor<T>(expected: &str, loaded: BackendResult<T>) -> Result<(), Failure> {
    match loaded {
        Err(Error::Weight { name, .. }) if name == expected => Ok(()),
        Err(other) => {
            Err(Failure::Mismatch(format!("expected a weight error that names `{expected}`, got `{other}`")))
        }
        Ok(_) => Err(Failure::Mismatch(format!("`{expected}` was loaded"))),
    }
}

/// A projection in each supported format.
fn for_each_supported(
    backend: &dyn Backend,
    mut check: impl FnMut(&Matrix, &LinearSpec) -> Result<(), Failure>,
) -> Result<(), Failure> {
    for_each_format(|format| {
        let shape = (19, fitted(33, format));
        let matrix = Matrix::sampled(&mut Samples::new(12), "layers.0.projection", format, shape)?;
        let spec = linear_spec(&matrix);
        if backend.supports(&WeightSpec::Linear(&spec)).is_err() {
            return Ok(());
        }
        check(&matrix, &spec)
    })
}

/// A bank of three experts, wider than their inner vectors, in each supported format.
fn for_each_bank(
    backend: &dyn Backend,
    check: impl FnMut(Bank) -> Result<(), Failure>,
) -> Result<(), Failure> {
    for_each_bank_of(backend, &[(true, false)], check)
}

/// The same with and without gates and biases.
fn for_each_kind(
    backend: &dyn Backend,
    check: impl FnMut(Bank) -> Result<(), Failure>,
) -> Result<(), Failure> {
    for_each_bank_of(backend, &[(true, false), (true, true), (false, false), (false, true)], check)
}

fn for_each_bank_of(
    backend: &dyn Backend,
    kinds: &[(bool, bool)],
    mut check: impl FnMut(Bank) -> Result<(), Failure>,
) -> Result<(), Failure> {
    for_each_format(|format| {
        for &(gated, biases) in kinds {
            let spec = expert_spec(format, 3, (format.block_len() + 33, 17));
            let spec = ExpertSpec { gated, biases, ..spec };
            if backend.supports(&WeightSpec::Experts(&spec)).is_ok() {
                check(Bank::sampled(&mut Samples::new(13), spec)?)?;
            }
        }
        Ok(())
    })
}
