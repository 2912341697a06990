//! Choices that a trace recorded, for one of its layers.
//!
//! Shapes: ids `[tokens, k]` of the trace, the heaviest expert first where the trace has weights.
//! Invariants: the layer has as many experts as the one that is measured; fewer experts than the trace has are a token's
//! heaviest; after the last token comes the first one again.

use std::path::{Path, PathBuf};

use crate::trace::{TraceHeader, TraceKind, TraceLayer, TraceReader, TraceRecord};
use crate::{Error, LayerRoute, Result};

/// A layer of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceSource {
    /// The file.
    pub path: PathBuf,
    /// Index of the decoder layer; `None` is the middle one of those with a router.
    pub layer: Option<usize>,
}

impl TraceSource {
    /// What `FILE` or `FILE@LAYER` says.
    pub(super) fn parse(text: &str) -> Self {
        let parts = text.rsplit_once('@');
        match parts.and_then(|(path, layer)| Some((path, layer.parse().ok()?))) {
            Some((path, layer)) => TraceSource { path: path.into(), layer: Some(layer) },
            None => TraceSource { path: text.into(), layer: None },
        }
    }

    /// Says which layer it is, and fails where its choices cannot be those of a layer with `n_experts` experts.
    pub(super) fn settle(&mut self, n_experts: usize, ks: &[usize]) -> Result<()> {
        let reader = TraceReader::open(&self.path)?;
        let (_, found) = self.find(reader.header())?;
        self.layer = Some(found.layer);
        let TraceLayer { layer, experts, k } = found;
        if experts as usize != n_experts {
            return Err(
                self.misfit(format!("expected {n_experts} experts, got {experts} in its layer {layer}"))
            );
        }
        let weights = reader.header().weights;
        let fits = |&&top_k: &&usize| top_k == k as usize || (weights && top_k < k as usize);
        match ks.iter().find(|top_k| !fits(top_k)) {
            Some(top_k) if weights => Err(self.misfit(format!("expected at most {k} experts a token, got {top_k}"))),
            Some(top_k) => Err(self.misfit(format!(
                "expected {k} experts a token, got {top_k}: without weights nothing says which are the heaviest"
            ))),
            None => Ok(()),
        }
    }

    /// Reads the choices of at most `most` tokens.
    pub(super) fn read(&self, most: usize) -> Result<Replay> {
        let mut reader = TraceReader::open(&self.path)?;
        let (nth, TraceLayer { k, .. }) = self.find(reader.header())?;
        let k = k as usize;
        let mut ids = Vec::new();
        for record in reader.by_ref().take(most) {
            let TraceRecord::Token(token) = record? else { continue };
            let route = &token.routes[nth];
            if route.experts.len() < k {
                let (got, position) = (route.experts.len(), token.position);
                return Err(self.misfit(format!(
                    "expected {k} experts for each token, got {got} at position {position}"
                )));
            }
            ids.extend(heaviest_first(route));
        }
        if ids.is_empty() {
            return Err(self.misfit("expected at least one token, got none".into()));
        }
        Ok(Replay { k, ids })
    }

    /// The layer and where it stands in the records.
    fn find(&self, header: &TraceHeader) -> Result<(usize, TraceLayer)> {
        if header.kind == TraceKind::Counts {
            return Err(self.misfit("expected the choices of tokens, got counts alone".into()));
        }
        let layers = &header.layers;
        let Some(layer) = self.layer else {
            let middle = layers.len() / 2;
            return Ok((middle, layers[middle]));
        };
        match layers.iter().position(|other| other.layer == layer) {
            Some(nth) => Ok((nth, layers[nth])),
            None => {
                let known: Vec<String> = layers.iter().map(|other| other.layer.to_string()).collect();
                Err(self.misfit(format!("expected one of layers {}, got {layer}", known.join(", "))))
            }
        }
    }

    fn misfit(&self, reason: String) -> Error {
        Error::TraceMisfit { path: self.path.clone(), reason }
    }

    /// `name` with the layer, where it is known.
    pub(super) fn named(&self, name: impl std::fmt::Display) -> String {
        match self.layer {
            Some(layer) => format!("trace:{name}@{layer}"),
            None => format!("trace:{name}"),
        }
    }

    /// Its file without the directories.
    pub(super) fn file_name(&self) -> String {
        let name = self.path.file_name().map(Path::new).unwrap_or(&self.path);
        name.display().to_string()
    }
}

fn heaviest_first(route: &LayerRoute) -> Vec<u32> {
    let mut pairs: Vec<(u32, f32)> = route
        .experts
        .iter()
        .copied()
        .zip(route.weights.iter().copied().chain(std::iter::repeat(0.0)))
        .collect();
    pairs.sort_by(|a, b| b.1.total_cmp(&a.1));
    pairs.into_iter().map(|(id, _)| id).collect()
}

/// The choices of one layer, in the order of the trace.
#[derive(Clone, Debug)]
pub(super) struct Replay {
    k: usize,
    ids: Vec<u32>, // [tokens, k]
}

impl Replay {
    /// Tokens whose choices it has.
    pub(super) fn tokens(&self) -> usize {
        self.ids.len() / self.k
    }

    /// The `top_k` heaviest experts of `tokens` tokens from the `first` on, ascending, `[tokens, top_k]`.
    pub(super) fn choices(&self, first: usize, tokens: usize, top_k: usize) -> Vec<u32> {
        let mut chosen = Vec::with_capacity(tokens * top_k);
        for token in first..first + tokens {
            let from = token % self.tokens() * self.k;
            let begin = chosen.len();
            chosen.extend_from_slice(&self.ids[from..from + top_k]);
            chosen[begin..].sort_unstable();
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::{TokenRoutes, TraceWriter};

    /// Three tokens; layer 1 chooses 2 of 8 experts, layer 4 one of 4.
    fn trace(dir: &tempfile::TempDir, weights: bool) -> PathBuf {
        let path = dir.path().join(if weights { "run@home.trace" } else { "bare.trace" });
        let layer = |layer, experts, k| TraceLayer { layer, experts, k };
        let header = TraceHeader {
            weights,
            token_ids: false,
            ..TraceHeader::new(vec![layer(1, 8, 2), layer(4, 4, 1)])
        };
        let mut writer = TraceWriter::create(&path, &header).unwrap();
        for (position, experts) in [[0, 7], [2, 3], [5, 6]].into_iter().enumerate() {
            let route = |layer, n_experts, experts: Vec<u32>, heavy: Vec<f32>| LayerRoute {
                layer,
                n_experts,
                experts,
                weights: if weights { heavy } else { Vec::new() },
            };
            let routes =
                vec![route(1, 8, experts.to_vec(), vec![0.25, 0.75]), route(4, 4, vec![3], vec![1.0])];
            let position = position as u32;
            writer.token(&TokenRoutes { step: 0, sequence: 0, position, token: None, routes }).unwrap();
        }
        writer.flush().unwrap();
        path
    }

    fn source(path: &Path, layer: usize) -> TraceSource {
        TraceSource { path: path.into(), layer: Some(layer) }
    }

    #[test]
    fn choices_come_in_order_and_from_the_start_again_after_the_last() {
        let dir = tempfile::tempdir().unwrap();
        let replay = source(&trace(&dir, true), 1).read(100).unwrap();
        assert_eq!(replay.tokens(), 3);
        assert_eq!(replay.choices(1, 4, 2), [2, 3, 5, 6, 0, 7, 2, 3]);
        assert_eq!(replay.choices(3, 2, 1), [7, 3], "the heaviest of each");
        assert_eq!(source(&trace(&dir, false), 1).read(2).unwrap().choices(0, 3, 2), [0, 7, 2, 3, 0, 7]);
    }

    #[test]
    fn without_a_layer_it_is_the_middle_one_and_a_name_may_have_an_at_sign() {
        let dir = tempfile::tempdir().unwrap();
        let path = trace(&dir, true);
        let mut middle = TraceSource::parse(path.to_str().unwrap());
        assert_eq!((&middle.path, middle.layer), (&path, None));
        middle.settle(4, &[1]).unwrap();
        assert_eq!(middle.layer, Some(4));
        assert_eq!(TraceSource::parse("a@b@12"), source(Path::new("a@b"), 12));
    }

    #[test]
    fn what_does_not_fit_is_said_with_what_was_expected() {
        let dir = tempfile::tempdir().unwrap();
        let (weighty, bare) = (trace(&dir, true), trace(&dir, false));
        let check = |path: &Path, layer, n_experts, ks: &[usize], expected: &str| {
            let said = source(path, layer).settle(n_experts, ks).unwrap_err().to_string();
            assert!(said.contains(expected), "{said}");
        };
        check(&weighty, 1, 64, &[2], "expected 64 experts, got 8 in its layer 1");
        check(&weighty, 1, 8, &[1, 2, 4], "expected at most 2 experts a token, got 4");
        check(&bare, 1, 8, &[1, 2], "expected 2 experts a token, got 1: without weights");
        check(&weighty, 2, 8, &[2], "expected one of layers 1, 4, got 2");
        assert!(source(&weighty, 1).settle(8, &[1, 2]).is_ok());
        assert!(source(&bare, 1).settle(8, &[2]).is_ok());
        let missing = source(&dir.path().join("none"), 1).settle(8, &[2]).unwrap_err();
        assert!(missing.to_string().contains("none"), "{missing}");
        let nothing = source(&weighty, 1).read(0).unwrap_err().to_string();
        assert!(nothing.contains("at least one token"), "{nothing}");
    }
}
