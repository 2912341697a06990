//! What is measured: a model's files, or the shape of a published model with random weights.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// A model without weights: its name and the text of its config.json.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    name: Cow<'static, str>,
    config: Cow<'static, str>,
}

macro_rules! shapes {
    ($($name:literal),+ $(,)?) => {
        /// Shapes of published models, by name.
        pub const SHAPES: &[Shape] = &[$(
            Shape {
                name: Cow::Borrowed($name),
                config: Cow::Borrowed(include_str!(concat!("../../shapes/", $name, ".json"))),
            }
        ),+];
    };
}

shapes![
    "dbrx",
    "deepseek-v2",
    "deepseek-v2-lite",
    "deepseek-v3",
    "dots.llm1",
    "ernie-4.5-21b-a3b",
    "ernie-4.5-300b-a47b",
    "flexolmo-7x7b",
    "gemma-4-26b-a4b",
    "glm-4.5",
    "glm-4.5-air",
    "glm-4.7-flash",
    "gpt-oss-120b",
    "gpt-oss-20b",
    "granite-1b-a400m",
    "granite-3b-a800m",
    "granite-4.0-h-small",
    "granite-4.0-h-tiny",
    "hunyuan-a13b",
    "jamba-1.5-large",
    "jamba-v0.1",
    "kimi-k2",
    "lfm2-8b-a1b",
    "ling-flash-2.0",
    "ling-mini-2.0",
    "llama-4-maverick",
    "llama-4-scout",
    "minimax-m2",
    "mixtral-8x22b",
    "mixtral-8x7b",
    "moonlight-16b-a3b",
    "nemotron-3-nano-30b-a3b",
    "olmoe-1b-7b",
    "pangu-pro-moe",
    "phi-3.5-moe",
    "phi-mini-moe",
    "qwen1.5-moe-a2.7b",
    "qwen2-57b-a14b",
    "qwen3-235b-a22b",
    "qwen3-30b-a3b",
    "qwen3-coder-480b-a35b",
    "qwen3-next-80b-a3b",
    "qwen3.5-35b-a3b",
    "trinity-mini",
    "trinity-nano",
];

impl Shape {
    /// The shape called `name`, or that of a config.json, given the file or its directory.
    ///
    /// # Errors
    /// [`Error::UnknownName`] when it is neither; a file that cannot be read.
    pub fn find(name: &str) -> Result<Self> {
        if let Some(shape) = SHAPES.iter().find(|shape| shape.name == name) {
            return Ok(shape.clone());
        }
        let path = Path::new(name);
        let file = if path.is_dir() { path.join("config.json") } else { path.to_path_buf() };
        if !file.is_file() || file.extension().is_none_or(|extension| extension != "json") {
            let names: Vec<_> = SHAPES.iter().map(Shape::name).collect();
            let expected = format!("{}, or the path of a config.json", names.join(", "));
            return Err(Error::UnknownName { what: "shape", got: name.into(), expected });
        }
        let io = |source| moebius_model::Error::Io { path: file.clone(), source };
        let config = std::fs::read_to_string(&file).map_err(io)?;
        let called = if path.is_dir() { Some(path) } else { path.parent() };
        Ok(Shape { name: last_part(called.unwrap_or(path)).into(), config: config.into() })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The text of its config.json.
    pub fn config(&self) -> &str {
        &self.config
    }
}

/// What to measure.
#[derive(Clone, Debug)]
pub enum Subject {
    /// A model directory.
    Model(PathBuf),
    /// Random weights in a shape.
    Shape {
        /// The shape.
        shape: Shape,
        /// Decoder layers in place of the configured number.
        layers: Option<usize>,
    },
}

impl Subject {
    /// A name for tables.
    pub fn name(&self) -> String {
        match self {
            Subject::Model(dir) => last_part(dir),
            Subject::Shape { shape, layers: None } => shape.name().into(),
            Subject::Shape { shape, layers: Some(layers) } => format!("{}:{layers}L", shape.name()),
        }
    }
}

/// The last part of a path, of `.` the directory that it stands for.
fn last_part(path: &Path) -> String {
    let full = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    full.file_name().unwrap_or(full.as_os_str()).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_is_found_by_name_or_read_from_a_file() {
        assert_eq!(Shape::find("olmoe-1b-7b").unwrap().name(), "olmoe-1b-7b");
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/goldens/olmoe");
        for path in [dir.to_owned(), format!("{dir}/config.json")] {
            let shape = Shape::find(&path).unwrap();
            assert_eq!(shape.name(), "olmoe", "{path}");
            assert!(shape.config().contains("hidden_size"));
        }
        for name in ["olmoe", "/no/such/dir", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")] {
            assert!(matches!(Shape::find(name), Err(Error::UnknownName { .. })), "{name}");
        }
    }

    #[test]
    fn a_cut_shape_says_so_in_its_name() {
        let shape = Shape::find("mixtral-8x7b").unwrap();
        assert_eq!(Subject::Shape { shape, layers: Some(2) }.name(), "mixtral-8x7b:2L");
    }
}
