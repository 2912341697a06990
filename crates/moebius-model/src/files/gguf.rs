//! A model as a GGUF file: what it would be, and whether it says the same.

use std::sync::Arc;

use moebius_backend::Backend;

use super::{ModelFiles, no_checkpoint};
use crate::checkpoint::{Checkpoint, Described, GgufFile, GgufValue};
use crate::config::Config;
use crate::loader::Loader;
use crate::{Error, Result};

impl ModelFiles {
    /// The GGUF file that holds the model, its weights rounded as they would be held. `more` is what else its metadata
    /// says: names, vocabulary, templates.
    ///
    /// # Errors
    /// Those of [`ModelFiles::info`]; [`Error::NotInGguf`] for what GGUF has no way to say; [`Error::PackedAlready`].
    pub fn gguf_file(
        &self,
        backend: &Arc<dyn Backend>,
        more: Vec<(String, GgufValue)>,
    ) -> Result<GgufFile<'_>> {
        let Some(checkpoint) = &self.checkpoint else { return Err(no_checkpoint()) };
        if let Some(held) = self.weights().and_then(Checkpoint::packing) {
            return Err(Error::PackedAlready { held: held.to_string() });
        }
        let config = match &self.gguf {
            Some((_, text)) => Config::parse(text)?,
            None => Config::read(&self.config)?.into_text_part(),
        };
        let (plan, _) = self.plan(backend)?;
        let (routers, banks, ropes) = (plan.routers(), plan.placed_banks(), plan.ropes());
        let model = Described {
            model_type: self.family.model_type,
            keys: config.values(),
            base: &self.architecture.outline().base,
            ropes: &ropes,
            routers: &routers,
            banks: &banks,
            asked: &plan.into_asked(),
            held: self.held,
        };
        GgufFile::new(checkpoint, &model, more)
    }

    /// Fails unless `other`, which was written from this model, is the same model: every size, factor, window and
    /// rotation, whatever words its files have for them.
    ///
    /// # Errors
    /// [`Error::NotInGguf`], naming the first difference; errors of either model.
    pub fn check_same(&self, other: &ModelFiles, backend: &Arc<dyn Backend>) -> Result<()> {
        let refused = |reason| Error::NotInGguf { what: "this model".into(), reason };
        let ours = self.portrait(backend)?;
        let theirs = other.portrait(backend).map_err(|error| match error {
            Error::Tensors(problems) => {
                refused(format!("its architecture has other tensors: {}", problems[0]))
            }
            other => other,
        })?;
        match ours.iter().zip(&theirs).find_map(|(ours, theirs)| difference(ours, theirs)) {
            None if ours.len() == theirs.len() => Ok(()),
            None => {
                Err(refused(format!("expected {} parts to be read back, got {}", ours.len(), theirs.len())))
            }
            Some((expected, got)) => Err(Error::NotInGguf {
                what: format!("`{expected}` of this model"),
                reason: format!("its architecture stands for `{got}`"),
            }),
        }
    }

    /// What the parts of the model are, in words that tell any two apart.
    fn portrait(&self, backend: &Arc<dyn Backend>) -> Result<Vec<String>> {
        let loader = Loader::plan(backend, self.weights(), self.held()?).portraying();
        self.architecture.load(&loader)?;
        loader.check()?;
        Ok(loader.into_portrait())
    }
}

/// The first field in which two descriptions differ, as each has it. Numbers may differ by what f32 rounds away.
fn difference(ours: &str, theirs: &str) -> Option<(String, String)> {
    let [ours, theirs] = [ours, theirs].map(|text| text.split(", ").collect::<Vec<_>>());
    let count = ours.len().max(theirs.len());
    (0..count).find_map(|index| {
        let [a, b] = [&ours, &theirs].map(|fields| fields.get(index).copied().unwrap_or("nothing"));
        (!alike(a, b)).then(|| (a.to_owned(), b.to_owned()))
    })
}

/// Whether two fields say the same.
fn alike(a: &str, b: &str) -> bool {
    const TOLERANCE: f64 = 1e-5;
    let split = |text: &str| -> (String, Option<f64>) {
        let is_number = |letter: char| letter.is_ascii_digit() || ".-+e".contains(letter);
        let body = text.trim_end_matches([')', ']', '}', ' ']);
        let start = body.rfind(|letter| !is_number(letter)).map_or(0, |at| at + 1);
        match body[start..].parse() {
            Ok(number) => (text[..start].to_owned(), Some(number)),
            Err(_) => (text.to_owned(), None),
        }
    };
    let ((words_a, a), (words_b, b)) = (split(a), split(b));
    let close = match (a, b) {
        (Some(a), Some(b)) => (a - b).abs() <= TOLERANCE * a.abs().max(b.abs()),
        (a, b) => a.is_none() && b.is_none(),
    };
    words_a == words_b && close
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_that_differ_by_rounding_are_the_same() {
        let same = |a: &str, b: &str| difference(a, b).is_none();
        assert!(same("A { x: 1.0, y: [1e-6, 0.1] }", "A { x: 1.0000001, y: [0.000001, 0.1] }"));
        assert!(same("A { window: None, b: true }", "A { window: None, b: true }"));
    }

    #[test]
    fn the_first_field_that_differs_is_named() {
        let ours = "A { x: 1.0, window: Some(16), y: 2 }";
        let of = |theirs: &str| difference(ours, theirs).unwrap();
        assert_eq!(
            of("A { x: 1.0, window: None, y: 2 }"),
            ("window: Some(16)".into(), "window: None".into())
        );
        assert_eq!(of("A { x: 1.001, window: None, y: 2 }").0, "A { x: 1.0");
        assert_eq!(of("A { x: 1.0, window: Some(16)"), ("y: 2 }".into(), "nothing".into()));
    }
}
