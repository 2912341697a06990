//! A SentencePiece `tokenizer.model` as a `tokenizer.json`.
//!
//! Text is rewritten by the model's table, superfluous spaces go if it says so, a space is put in front, spaces become
//! `▁`, and the whole is cut up by merges (arXiv 1508.07909) or by the likeliest path (arXiv 1804.10959).
//!
//! Shapes: bytes of the model -> [`TokenizerFile`].
//! Invariants: an id is the position of its piece. Control symbols are special tokens, user-defined ones are not, and
//! both are found in a text before anything else happens to it, as transformers does.

mod charsmap;
mod proto;

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::{Value, json};
use tokenizers::AddedToken;

use self::proto::{Algorithm, Model, Normalizer};
pub(super) use self::proto::{Kind, Piece};
use super::base64;
use super::config::TextConfig;
use super::tokenizer_file::{Problem, TokenizerFile, Vocabulary, added_token, around, merges};

/// Tokenizers that put the first token in front of a text unless told otherwise.
const BOS_CLASSES: [&str; 3] = ["LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer"];
/// What stands for a space.
const SPACE: &str = "▁";

/// Converts a model; what `config` says about added tokens and about spaces comes first.
///
/// # Errors
/// What is wrong with the model or cannot be carried over.
pub(super) fn convert(bytes: &[u8], config: &mut TextConfig) -> Result<TokenizerFile, Problem> {
    of_model(Model::parse(bytes)?, config)
}

/// As [`convert`], of a vocabulary with scores that is merged by them.
pub(super) fn of_pieces(pieces: Vec<Piece>, config: &mut TextConfig) -> Result<TokenizerFile, Problem> {
    if !pieces.iter().any(|piece| piece.kind == Kind::Unknown) {
        return Err(Problem::Broken("expected a token for unknown characters, got none".into()));
    }
    config.flags.add_bos.get_or_insert(true);
    let normalizer = Normalizer {
        map: Vec::new(),
        add_dummy_prefix: true,
        remove_extra_spaces: false,
        escape_spaces: true,
    };
    let byte_fallback = pieces.iter().any(|piece| piece.kind == Kind::Byte);
    let model = Model {
        pieces,
        algorithm: Algorithm::Bpe,
        byte_fallback,
        space_as_suffix: false,
        bos_id: -1,
        eos_id: -1,
        normalizer,
        denormalizer_map: Vec::new(),
    };
    of_model(model, config)
}

fn of_model(mut model: Model, config: &mut TextConfig) -> Result<TokenizerFile, Problem> {
    refuse(&model)?;
    if !model.normalizer.map.is_empty() {
        charsmap::check(&model.normalizer.map)?;
    }
    name_tokens(&model, config);
    let added = place_added(&mut model, config)?;
    let prefix = config.flags.add_prefix_space.unwrap_or(model.normalizer.add_dummy_prefix);
    let first_only = prefix && config.flags.legacy == Some(false);
    let ids: HashMap<&str, u32> =
        (0..).zip(&model.pieces).map(|(id, piece)| (piece.text.as_str(), id)).collect();
    let class = config.flags.class.as_deref().map(|class| class.trim_end_matches("Fast"));
    let bos = class.is_some_and(|class| BOS_CLASSES.contains(&class));
    let post_processor = around(config, bos, |content| ids.get(content).copied());
    let metaspace =
        json!({"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first", "split": false});
    Ok(TokenizerFile {
        added_tokens: added.iter().map(|(id, token)| added_token(*id, token)).collect(),
        normalizer: normalizer(&model, prefix && !first_only),
        pre_tokenizer: if first_only { metaspace } else { Value::Null },
        post_processor,
        decoder: decoder(&model, prefix),
        model: vocabulary(&model)?,
    })
}

/// Refuses what would be read as something else.
fn refuse(model: &Model) -> Result<(), Problem> {
    let unsupported = |what: &str| Err(Problem::Unsupported(what.to_owned()));
    match model.algorithm {
        Algorithm::Unigram | Algorithm::Bpe => {}
        Algorithm::Word => return unsupported("its model type is `word`, expected `unigram` or `bpe`"),
        Algorithm::Character => return unsupported("its model type is `char`, expected `unigram` or `bpe`"),
    }
    if model.space_as_suffix {
        return unsupported("`treat_whitespace_as_suffix` is true, expected false");
    }
    if !model.denormalizer_map.is_empty() {
        return unsupported("it rewrites decoded text (`denormalizer_spec`)");
    }
    Ok(())
}

/// Without any configuration file, the model's own control symbols begin and end a text.
fn name_tokens(model: &Model, config: &mut TextConfig) {
    if !config.named.is_empty() {
        return;
    }
    for (name, id) in [("bos_token", model.bos_id), ("eos_token", model.eos_id)] {
        let piece = usize::try_from(id).ok().and_then(|id| model.pieces.get(id));
        if let Some(piece) = piece.filter(|piece| piece.kind == Kind::Control) {
            config.named.insert(name.to_owned(), AddedToken::from(piece.text.clone(), true));
        }
    }
}

/// All added tokens by their ids. Tokens of the configuration take the places that it gives them.
fn place_added(model: &mut Model, config: &TextConfig) -> Result<BTreeMap<u32, AddedToken>, Problem> {
    for (&id, token) in &config.added {
        let next = model.pieces.len();
        match model.pieces.get_mut(id as usize) {
            Some(piece) if piece.text == token.content => {}
            Some(piece) if !matches!(piece.kind, Kind::Normal | Kind::Byte) => {
                piece.text.clone_from(&token.content)
            }
            Some(piece) => {
                let (content, text) = (&token.content, &piece.text);
                return Err(Problem::Broken(format!(
                    "`added_tokens_decoder` gives `{content}` the id {id}, which is that of the piece `{text}`"
                )));
            }
            None if id as usize == next => {
                let text = token.content.clone();
                model.pieces.push(Piece { text, score: 0.0, kind: Kind::UserDefined });
            }
            None => {
                return Err(Problem::Broken(format!(
                    "`added_tokens_decoder`: expected {next} as the id after the last piece, got {id}"
                )));
            }
        }
    }
    let own = (0..)
        .zip(&model.pieces)
        .filter(|(_, piece)| matches!(piece.kind, Kind::Control | Kind::Unknown | Kind::UserDefined));
    let own = own.map(|(id, piece)| {
        let special = piece.kind != Kind::UserDefined;
        (id, AddedToken::from(piece.text.clone(), special).normalized(false))
    });
    Ok(own.chain(config.added.iter().map(|(&id, token)| (id, token.clone()))).collect())
}

fn normalizer(model: &Model, prefix: bool) -> Value {
    let rules = &model.normalizer;
    let mut steps = Vec::new();
    if !rules.map.is_empty() {
        steps.push(json!({"type": "Precompiled", "precompiled_charsmap": base64::encode(&rules.map)}));
    }
    if rules.remove_extra_spaces {
        for (pattern, content) in [(r"\A +| +\z", ""), (" {2,}", " ")] {
            steps.push(json!({"type": "Replace", "pattern": {"Regex": pattern}, "content": content}));
        }
    }
    if prefix {
        steps.push(json!({"type": "Prepend", "prepend": " "}));
    }
    if rules.escape_spaces {
        steps.push(json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE}));
    }
    json!({"type": "Sequence", "normalizers": steps})
}

fn decoder(model: &Model, prefix: bool) -> Value {
    let mut steps = Vec::new();
    if model.normalizer.escape_spaces {
        steps.push(json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}));
    }
    if model.byte_fallback {
        steps.push(json!({"type": "ByteFallback"}));
    }
    steps.push(json!({"type": "Fuse"}));
    if prefix {
        steps.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({"type": "Sequence", "decoders": steps})
}

fn vocabulary(model: &Model) -> Result<Vocabulary, Problem> {
    let pieces = &model.pieces;
    if pieces.iter().any(|piece| piece.kind == Kind::Unused) {
        return Err(Problem::Unsupported("some of its pieces are marked as unused".to_owned()));
    }
    let unknown = pieces.iter().position(|piece| piece.kind == Kind::Unknown);
    let unk_id = unknown.expect("a model has one piece for unknown characters");
    let byte_fallback = model.byte_fallback;
    if model.algorithm == Algorithm::Unigram {
        let vocab = pieces.iter().map(|piece| (piece.text.clone(), piece.score)).collect();
        return Ok(Vocabulary::Unigram { vocab, unk_id, byte_fallback });
    }
    let mut ranked: Vec<&Piece> = pieces.iter().filter(|piece| piece.kind == Kind::Normal).collect();
    let known: HashSet<&str> = ranked.iter().map(|piece| piece.text.as_str()).collect();
    // Equal scores keep the order of the ids.
    ranked.sort_by(|a, b| b.score.total_cmp(&a.score));
    Ok(Vocabulary::Bpe {
        vocab: (0..).zip(pieces).map(|(id, piece)| (piece.text.clone(), id)).collect(),
        merges: merges(ranked.iter().map(|piece| piece.text.as_str()), &known)?,
        unk_token: Some(pieces[unk_id].text.clone()),
        fuse_unk: true,
        byte_fallback,
        ignore_merges: false,
    })
}
