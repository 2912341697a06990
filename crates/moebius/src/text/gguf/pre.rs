//! How byte-level vocabularies cut text before pairs are merged, by the names that files have for it.
//!
//! The patterns are those of the models' own tokenizers; one after another cuts what the one before has left whole.

use crate::text::tiktoken;

/// GPT-2's way.
pub(super) const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// How contractions begin words in patterns.
const CONTRACTIONS: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
/// A digit.
const DIGIT: &str = r"\p{N}";
/// Up to three.
const DIGITS: &str = r"\p{N}{1,3}";
/// Han characters, as DeepSeek's first models cut them out.
const HAN: &str = "[\u{4e00}-\u{9fa5}\u{800}-\u{4e00}\u{ac00}-\u{d7ff}]+";
/// Punctuation with letters, words, punctuation and spaces, as DeepSeek-V3 has them.
const MARKS_AND_WORDS: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;
/// Scripts without spaces between words, as Trinity's tokenizer cuts them out.
const UNSPACED: &str = "[\u{4e00}-\u{9fff}\u{3400}-\u{4dbf}\u{f900}-\u{faff}\u{3040}-\u{309f}\u{30a0}-\u{30ff}\
    \u{ff65}-\u{ff9f}\u{2f00}-\u{2fdf}\u{e40}-\u{e7f}\u{e80}-\u{eff}\u{1780}-\u{17ff}\u{1000}-\u{109f}\
    \u{aa60}-\u{aa7f}\u{a9e0}-\u{a9ff}\u{ac00}-\u{d7af}\u{1100}-\u{11ff}]+";
/// Letters with two cases, as the tokenizer of DeepSeek-LLM and DeepSeek-V2 lists them.
const CASED_LETTERS: &str = "\
    A-Za-z\u{b5}\u{c0}-\u{d6}\u{d8}-\u{f6}\u{f8}-\u{1ba}\u{1bc}-\u{1bf}\u{1c4}-\u{293}\u{295}-\u{2af}\
    \u{370}-\u{373}\u{376}\u{377}\u{37b}-\u{37d}\u{37f}\u{386}\u{388}-\u{38a}\u{38c}\u{38e}-\u{3a1}\
    \u{3a3}-\u{3f5}\u{3f7}-\u{481}\u{48a}-\u{52f}\u{531}-\u{556}\u{10a0}-\u{10c5}\u{13a0}-\u{13f5}\
    \u{13f8}-\u{13fd}\u{1c90}-\u{1cba}\u{1cbd}-\u{1cbf}\u{1d00}-\u{1d2b}\u{1d6b}-\u{1d77}\u{1d79}-\u{1d9a}\
    \u{1e00}-\u{1f15}\u{1f18}-\u{1f1d}\u{1f20}-\u{1f45}\u{1f48}-\u{1f4d}\u{1f50}-\u{1f57}\u{1f59}\u{1f5b}\
    \u{1f5d}\u{1f5f}-\u{1f7d}\u{1f80}-\u{1fb4}\u{1fb6}-\u{1fbc}\u{1fbe}\u{1fc2}-\u{1fc4}\u{1fc6}-\u{1fcc}\
    \u{1fd0}-\u{1fd3}\u{1fd6}-\u{1fdb}\u{1fe0}-\u{1fec}\u{1ff2}-\u{1ff4}\u{1ff6}-\u{1ffc}\u{2102}\u{2107}\
    \u{210a}-\u{2113}\u{2115}\u{2119}-\u{211d}\u{2124}\u{2126}\u{2128}\u{212a}-\u{212d}\u{212f}-\u{2134}\u{2139}\
    \u{213c}-\u{213f}\u{2145}-\u{2149}\u{214e}\u{2183}\u{2184}\u{2c00}-\u{2c7b}\u{2c7e}-\u{2ce4}\
    \u{2ceb}-\u{2cee}\u{2cf2}\u{2cf3}\u{a640}-\u{a66d}\u{a680}-\u{a69b}\u{a722}-\u{a76f}\u{a771}-\u{a787}\
    \u{a78b}-\u{a78e}\u{ab70}-\u{abbf}\u{fb00}-\u{fb06}\u{fb13}-\u{fb17}\u{ff21}-\u{ff3a}\u{ff41}-\u{ff5a}\
    \u{10400}-\u{1044f}\u{104b0}-\u{104d3}\u{104d8}-\u{104fb}\u{10c80}-\u{10cb2}\u{10cc0}-\u{10cf2}\
    \u{118a0}-\u{118df}\u{1e900}-\u{1e943}";

/// How text is cut before pairs are merged.
pub(super) struct Pre {
    /// One after another.
    pub(super) patterns: Vec<String>,
    /// Whether the first token stands in front unless the file says otherwise.
    pub(super) bos: bool,
    /// Whether a word that is a token is taken whole.
    pub(super) ignore_merges: bool,
    /// Whether text is composed (Unicode NFC), as the models' own tokenizers do.
    pub(super) nfc: bool,
}

impl Pre {
    /// The one with this name.
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "default" => cut(&[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"]),
            "gpt-2" | "olmo" | "mpt" | "phi-2" | "gigachat" | "trillion" | "exaone4" | "granite-docling" => {
                cut(&[GPT2])
            }
            "refact" | "starcoder" | "command-r" | "smollm" | "codeshell" | "exaone" | "mellum2" => {
                cut(&[DIGIT, GPT2])
            }
            "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "falcon-h1" | "lfm2" | "pixtral" => {
                Pre { bos: true, ignore_merges: true, ..cut(&[&words(DIGITS)]) }
            }
            "tekken" => Pre { bos: true, ignore_merges: true, ..cut(&[&cased("", DIGIT)]) },
            "dbrx" | "smaug-bpe" | "chatglm-bpe" => cut(&[&words(DIGITS)]),
            "glm4" | "glm5" => Pre { ignore_merges: true, ..cut(&[&words(DIGITS)]) },
            "qwen2" | "deepseek-r1-qwen" | "megrez" => Pre { nfc: true, ..cut(&[&words(DIGIT)]) },
            "stablelm2" | "hunyuan" | "solar-open" | "grok-2" => cut(&[&words(DIGIT)]),
            "qwen35" => Pre { nfc: true, ..cut(&[&words_with_marks()]) },
            "bailingmoe" | "bailingmoe2" | "llada-moe" => cut(&[&words_and_single_breaks()]),
            "gpt-4o" | "llama4" | "minimax-m2" | "kanana2" => {
                cut(&[&cased(&format!("{CONTRACTIONS}?"), DIGITS)])
            }
            "kimi-k2" => Pre { ignore_merges: true, ..cut(&[tiktoken::KIMI]) },
            "deepseek-llm" => {
                let letters = format!(r"\s?[{CASED_LETTERS}]+");
                let marks =
                    "\\s?[!-/:-~\u{ff01}-\u{ff0f}\u{ff1a}-\u{ff5e}\u{2018}-\u{201f}\u{3000}-\u{3002}]+";
                cut(&["[\r\n]", &letters, marks, r"\s+$", HAN, DIGIT])
            }
            "deepseek-coder" => cut(&["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", HAN, DIGIT]),
            "deepseek-v3" | "hunyuan-dense" | "joyai-llm" => {
                let han = "[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+";
                cut(&[DIGITS, han, MARKS_AND_WORDS])
            }
            // Digits in threes, counted from the last.
            "afmoe" => cut(&[r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))", UNSPACED, MARKS_AND_WORDS]),
            _ => return None,
        })
    }
}

/// Patterns and nothing else.
fn cut(patterns: &[&str]) -> Pre {
    let patterns = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
    Pre { patterns, bos: false, ignore_merges: false, nfc: false }
}

/// Contractions, words with what stands before them, digits, punctuation, breaks and spaces.
fn words(digits: &str) -> String {
    format!(
        r"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
}

/// The same, where marks belong to letters.
fn words_with_marks() -> String {
    format!(
        r"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|{DIGIT}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
}

/// The same, where each break is a word.
fn words_and_single_breaks() -> String {
    format!(
        r"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{DIGIT}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
    )
}

/// The same, where words end before capitals, and with what may follow them.
fn cased(after: &str, digits: &str) -> String {
    let (upper, lower) = (r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]");
    let before = r"[^\r\n\p{L}\p{N}]?";
    format!(
        r"{before}{upper}*{lower}+{after}|{before}{upper}+{lower}*{after}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
}
