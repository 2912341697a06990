//! Generating text, piece by piece.

use moebius_engine::{FinishReason, Request, RequestId, SamplingParams};
use moebius_metering::{Reading, Window};
use moebius_model::Probe;

use crate::declared::{Modelled, ModelledPhase};
use crate::observer::Both;
use crate::route::{LayerRoute, RouteRecorder};
use crate::text::{StopStrings, StreamDecoder, Tokenizer};
use crate::{Model, Result};

/// What to continue.
#[derive(Clone, Copy, Debug)]
pub enum Prompt<'a> {
    /// Text, encoded with the special tokens that the tokenizer adds.
    Text(&'a str),
    /// Text that already spells its special tokens: a rendered chat template.
    Rendered(&'a str),
    /// Ids of a text that was encoded already, such as one that goes on.
    Encoded(&'a [u32]),
    /// Bare token ids: any row of the output projection may be chosen, with text or without.
    Ids(&'a [u32]),
}

/// How to continue it.
#[derive(Clone, Debug, Default)]
pub struct GenerateOptions {
    /// Most tokens to generate; `None` is up to the end of the context.
    pub max_tokens: Option<usize>,
    /// How tokens are chosen; `None` is [`Model::default_sampling`] with seed 0.
    pub sampling: Option<SamplingParams>,
    /// Texts that end the generation, themselves not shown.
    pub stop: Vec<String>,
    /// Goes on past end-of-sequence tokens.
    pub ignore_eos: bool,
    /// Keeps what every router chose, for each token.
    pub record_routes: bool,
    /// Tells each token's log-probability, which takes a pass of exponentials over the vocabulary.
    pub logprobs: bool,
}

/// One generated token and the text that it completed.
#[derive(Clone, Debug)]
pub struct Piece {
    /// The token id.
    pub token: u32,
    /// Its log-probability (nats) under the model, before any penalty, filter or temperature; if asked for.
    pub logprob: Option<f32>,
    /// Text that can be shown now; empty while a character or a stop string may still be incomplete.
    pub text: String,
    /// What every router chose in the pass that gave this token, if asked for.
    pub routes: Vec<LayerRoute>,
}

/// A generation under way: an iterator over its tokens. Dropping it ends it.
pub struct Generation<'m> {
    model: &'m mut Model,
    request: RequestId,
    decoder: Option<StreamDecoder>,
    /// Gone when the text has ended.
    stop: Option<StopStrings>,
    recorder: Option<RouteRecorder>,
    prompt: Vec<u32>,
    tokens: Vec<u32>,
    windows: Windows,
    ended: Option<Ending>,
}

/// Where the clock stands: reading the prompt, then generating.
struct Windows {
    open: Option<Mark>,
    prefill: Option<Closed>,
    decode: Option<Closed>,
}

/// A moment: what was counted and modelled up to it.
struct Mark {
    window: Window,
    modelled: Option<Modelled>,
}

/// What was counted and modelled between two moments.
type Closed = (Reading, Option<Modelled>);

impl Mark {
    fn new(model: &Model) -> Self {
        Mark { window: Window::open(model.engine.meter()), modelled: model.modelled() }
    }

    fn close(self, model: &Model) -> Closed {
        let modelled = model.modelled().zip(self.modelled).map(|(now, before)| &now - &before);
        (self.window.close(model.engine.meter()), modelled)
    }
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Finished(FinishReason),
    StopString,
    Failed,
}

/// What a finished generation was.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Ids of the prompt.
    pub prompt: Vec<u32>,
    /// Ids that were generated.
    pub tokens: Vec<u32>,
    /// Why it ended: `stop`, `length`, `context`, or `cancelled` by the caller.
    pub finish: &'static str,
    /// Reading the prompt, up to the first token.
    pub prefill: Reading,
    /// Generating the rest.
    pub decode: Reading,
    /// What declared hardware would have taken, if some is declared.
    pub modelled: Option<ModelledRun>,
}

/// What declared hardware would have taken for a generation.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelledRun {
    /// Reading the prompt.
    pub prefill: ModelledPhase,
    /// Generating the rest.
    pub decode: ModelledPhase,
}

impl Model {
    /// Starts to continue `prompt`.
    ///
    /// # Errors
    /// A prompt that is empty or too long, text without a tokenizer, parameters out of range.
    pub fn generate(&mut self, prompt: Prompt<'_>, options: &GenerateOptions) -> Result<Generation<'_>> {
        let vocab_limit = self.vocab_limit(prompt);
        let prompt = self.prompt_ids(prompt)?;
        let stop = Some(StopStrings::new(options.stop.iter())?);
        let sampling = options.sampling.clone().unwrap_or_else(|| self.default_sampling());
        let mut decoder = self.tokenizer().ok().map(|tokenizer| tokenizer.stream(true));
        if let Some(decoder) = &mut decoder {
            decoder.skip(&prompt);
        }
        let request = Request {
            prompt: prompt.clone(),
            max_tokens: options.max_tokens.unwrap_or(usize::MAX),
            sampling,
            stop_tokens: if options.ignore_eos { Vec::new() } else { self.stop_tokens() },
            forced: Vec::new(),
            vocab_limit,
            logprobs: options.logprobs,
        };
        let windows = Windows { open: Some(Mark::new(self)), prefill: None, decode: None };
        let request = self.engine.submit(request)?;
        let ended = self.engine.is_idle().then_some(Ending::Finished(FinishReason::Length));
        let recorder = options.record_routes.then(RouteRecorder::default);
        let tokens = Vec::new();
        Ok(Generation { model: self, request, decoder, stop, recorder, prompt, tokens, windows, ended })
    }

    /// Where padding rows of the output projection begin, which have no text: not to be chosen while text is
    /// written. Ids in, ids out sees all rows, as in the reference implementation.
    fn vocab_limit(&self, prompt: Prompt<'_>) -> Option<usize> {
        match prompt {
            Prompt::Ids(_) => None,
            _ => self.tokenizer().ok().map(Tokenizer::id_limit),
        }
    }

    /// The ids of a prompt.
    pub(crate) fn prompt_ids(&self, prompt: Prompt<'_>) -> Result<Vec<u32>> {
        Ok(match prompt {
            Prompt::Text(text) => self.tokenizer()?.encode(text, true)?,
            Prompt::Rendered(text) => self.tokenizer()?.encode(text, false)?,
            Prompt::Encoded(ids) | Prompt::Ids(ids) => ids.to_vec(),
        })
    }
}

impl Generation<'_> {
    /// Ids of the prompt.
    pub fn prompt(&self) -> &[u32] {
        &self.prompt
    }

    /// Ends the generation and says what it was.
    pub fn finish(mut self) -> Summary {
        let finish = match self.ended {
            Some(Ending::Finished(reason)) => reason.name(),
            Some(Ending::StopString) => "stop",
            Some(Ending::Failed) => "error",
            None => "cancelled",
        };
        self.close_window();
        let ((prefill, prefilled), (decode, decoded)) = self.windows.readings(self.model);
        let modelled = self.model.declared().zip(prefilled.zip(decoded));
        let modelled = modelled.map(|(declared, (prefilled, decoded))| ModelledRun {
            prefill: declared.prefill(prefilled, &prefill.counts),
            decode: declared.decode(decoded, &decode.counts),
        });
        Summary {
            prompt: std::mem::take(&mut self.prompt),
            tokens: std::mem::take(&mut self.tokens),
            finish,
            prefill,
            decode,
            modelled,
        }
    }

    fn advance(&mut self) -> Result<Option<Piece>> {
        while self.ended.is_none() {
            let recorder = self.recorder.as_mut().map(|recorder| recorder as &mut dyn Probe);
            let tracer = self.model.tracer.as_mut().map(|tracer| tracer as &mut dyn Probe);
            let events = self.model.engine.step(Both(recorder, tracer).probe())?;
            let Some(event) = events.into_iter().find(|event| event.request == self.request) else {
                continue;
            };
            self.tokens.push(event.token);
            self.windows.first_token(self.model);
            let (mut text, stopped) = self.show(event.token);
            self.ended = event.finish.map(Ending::Finished);
            if stopped {
                self.ended = Some(Ending::StopString);
                self.model.engine.cancel(self.request);
            }
            if let Some(Ending::Finished(_)) = self.ended {
                text += &self.flush();
            }
            if self.ended.is_some() {
                self.close_window();
            }
            let routes = self.recorder.as_mut().map(RouteRecorder::take).unwrap_or_default();
            return Ok(Some(Piece { token: event.token, logprob: event.logprob, text, routes }));
        }
        Ok(None)
    }

    /// The text that `token` completes, and whether a stop string ended it.
    fn show(&mut self, token: u32) -> (String, bool) {
        let text = self.decoder.as_mut().and_then(|decoder| decoder.push(token)).unwrap_or_default();
        match &mut self.stop {
            Some(stop) => {
                let step = stop.push(&text);
                (step.text, step.stopped.is_some())
            }
            None => (text, false),
        }
    }

    /// Text that waited for more tokens which will not come.
    fn flush(&mut self) -> String {
        let rest = self.decoder.take().map(StreamDecoder::finish).unwrap_or_default();
        let Some(mut stop) = self.stop.take() else { return rest };
        stop.push(&rest).text + &stop.finish()
    }

    fn close_window(&mut self) {
        self.windows.close(self.model);
    }
}

impl Windows {
    fn first_token(&mut self, model: &Model) {
        if self.prefill.is_none() {
            self.prefill = self.open.take().map(|mark| mark.close(model));
            self.open = Some(Mark::new(model));
        }
    }

    fn close(&mut self, model: &Model) {
        if let Some(mark) = self.open.take() {
            let closed = mark.close(model);
            let slot = if self.prefill.is_none() { &mut self.prefill } else { &mut self.decode };
            *slot = Some(closed);
        }
    }

    fn readings(&mut self, model: &Model) -> (Closed, Closed) {
        let empty = || Mark::new(model).close(model);
        (self.prefill.take().unwrap_or_else(empty), self.decode.take().unwrap_or_else(empty))
    }
}

impl Iterator for Generation<'_> {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Result<Piece>> {
        match self.advance() {
            Ok(piece) => piece.map(Ok),
            Err(error) => {
                self.ended = Some(Ending::Failed);
                Some(Err(error))
            }
        }
    }
}

impl Drop for Generation<'_> {
    fn drop(&mut self) {
        self.model.engine.cancel(self.request);
    }
}
