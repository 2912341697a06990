//! What a model would do, counted without doing it: the meter of a run in which no weight has a value.

use moebius_engine::{Engine, EngineOptions, Request};
use moebius_metering::{Counts, Window};
use moebius_model::{ModelFiles, ModelInfo};

use crate::backend::{BackendOptions, open_backend};
use crate::bench::Shape;
use crate::{OpenOptions, Result};

/// A model of which nothing but its configuration is there, and that counts as the real one would: by the code that
/// books the work of a run. Routers choose by chance.
///
/// ```
/// use moebius::bench::Shape;
/// use moebius::metering::Part;
/// use moebius::{DryModel, OpenOptions};
///
/// # fn main() -> Result<(), moebius::Error> {
/// let options = OpenOptions { format: "bf16".parse()?, ..OpenOptions::default() };
/// let mut model = DryModel::open(&Shape::find("olmoe-1b-7b")?, &options)?;
/// let [_prompt, decode] = model.generate(4, 1, 1)?;
/// // 8 of 64 experts of 3 matrices 2048 x 1024 in each of 16 layers, for one token.
/// assert_eq!(decode.part(Part::Experts).macs, 16 * 8 * 3 * 2048 * 1024);
/// # Ok(())
/// # }
/// ```
pub struct DryModel {
    engine: Engine,
    info: ModelInfo,
}

impl DryModel {
    /// The model of `shape`, its weights counted in the format of the options, or in f32 without one.
    ///
    /// # Errors
    /// Errors of the configuration; a format that the backend cannot hold.
    pub fn open(shape: &Shape, options: &OpenOptions) -> Result<Self> {
        let backend = open_backend(&BackendOptions { threads: Some(1), ..options.backend.clone() })?;
        let files = ModelFiles::described(shape.config(), options.experts)?.hold(options.format);
        let (info, model) = (files.info(&backend)?, files.dry(&backend)?);
        let context = options.context.unwrap_or(usize::MAX);
        let engine_options = EngineOptions { context, chunk: usize::MAX };
        Ok(DryModel { engine: Engine::new(model, &backend.info().device, engine_options), info })
    }

    /// What the model is.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Counts what `batch` sequences do together: reading a prompt of `prompt_tokens` each in one pass, and then `steps`
    /// passes of one token each.
    ///
    /// Attention's own work is done, for zeros, so that long prompts take their time.
    ///
    /// # Errors
    /// A prompt without tokens or beyond the context.
    pub fn generate(&mut self, prompt_tokens: usize, batch: usize, steps: usize) -> Result<[Counts; 2]> {
        for _ in 0..batch {
            let request = Request::greedy(vec![0; prompt_tokens], steps.saturating_add(1));
            self.engine.submit(request)?;
        }
        let prompt = Window::open(self.engine.meter());
        self.engine.step(None)?;
        let prompt = prompt.close(self.engine.meter()).counts;
        let decode = Window::open(self.engine.meter());
        while !self.engine.is_idle() {
            self.engine.step(None)?;
        }
        Ok([prompt, decode.close(self.engine.meter()).counts])
    }
}
