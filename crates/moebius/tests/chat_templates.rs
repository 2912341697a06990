//! Chat templates of every family, held against what transformers makes of them, byte for byte.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use moebius::FAMILIES;
use moebius::text::{ChatInput, ChatTemplate, Json, Message, TextError};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// 2024-07-26, where the clock of `make_renders.py` stands.
const CLOCK: Duration = Duration::from_secs(1_721_952_000);

#[derive(Default, Deserialize)]
#[serde(default)]
struct Input {
    messages: Vec<Json>,
    tools: Vec<Json>,
    documents: Vec<Json>,
    add_generation_prompt: bool,
    variables: BTreeMap<String, Json>,
}

/// What transformers makes of a template: a text, or an error.
#[derive(Deserialize)]
struct Outcome {
    text: Option<String>,
    raises: Option<String>,
}

#[derive(Deserialize)]
struct Snippets {
    #[serde(flatten)]
    input: Input,
    snippets: Vec<Snippet>,
}

#[derive(Deserialize)]
struct Snippet {
    source: String,
    #[serde(flatten)]
    outcome: Outcome,
}

fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/chat-templates")
}

fn read<T: DeserializeOwned>(name: &str) -> T {
    let path = dir().join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The names of the templates in `folder`.
fn templates(folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(dir().join(folder)).unwrap();
    let names = entries.filter_map(|entry| {
        let name = entry.unwrap().file_name().into_string().unwrap();
        name.strip_suffix(".jinja").map(str::to_owned)
    });
    names.collect()
}

fn render(source: &str, input: &Input) -> Result<String, TextError> {
    let template = ChatTemplate::new(source)?.with_clock(|| UNIX_EPOCH + CLOCK);
    let template = template.with_special_token("bos_token", "<s>").with_special_token("eos_token", "</s>");
    let messages: Vec<Message> =
        input.messages.iter().map(|message| Message::from_json(message).unwrap()).collect();
    let variables: Vec<(String, Json)> =
        input.variables.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    template.render(&ChatInput {
        messages: &messages,
        tools: &input.tools,
        documents: &input.documents,
        add_generation_prompt: input.add_generation_prompt,
        variables: &variables,
    })
}

/// Whether `rendered` is what is expected; if not, says how.
fn compare(expected: &Outcome, rendered: Result<String, TextError>) -> Result<(), String> {
    match (&expected.text, &expected.raises, rendered) {
        (Some(expected), None, Ok(text)) if *expected == text => Ok(()),
        (Some(expected), None, got) => Err(format!("expected {expected:?}\n     got {got:?}")),
        (None, Some(raised), Ok(text)) => Err(format!("expected an error ({raised})\n     got {text:?}")),
        // What a template says itself is for its user, so the words count too.
        (None, Some(raised), Err(TextError::TemplateRefusal(said))) => {
            let same = *raised == format!("TemplateError: {said}");
            if same { Ok(()) } else { Err(format!("expected {raised}\n     got {said}")) }
        }
        (None, Some(raised), Err(_)) if !raised.starts_with("TemplateError: ") => Ok(()),
        (_, raised, got) => Err(format!("expected {raised:?}\n     got {got:?}")),
    }
}

#[track_caller]
fn none_differ(differences: &[String]) {
    assert!(differences.is_empty(), "{} differ:\n{}", differences.len(), differences.join("\n"));
}

/// Compares the templates in `folder`, and gives how many texts and errors there were.
fn check_templates(folder: &str) -> (usize, usize) {
    let inputs: BTreeMap<String, Input> = read("inputs.json");
    let (mut texts, mut errors, mut differences) = (0, 0, Vec::new());
    for name in templates(folder) {
        let source = std::fs::read_to_string(dir().join(folder).join(format!("{name}.jinja"))).unwrap();
        let outcomes: BTreeMap<String, Outcome> = read(&format!("renders/{name}.json"));
        assert!(outcomes.keys().eq(inputs.keys()), "renders/{name}.json has other inputs than inputs.json");
        assert!(outcomes.values().any(|outcome| outcome.text.is_some()), "{name} renders nothing");
        for (case, outcome) in &outcomes {
            texts += usize::from(outcome.text.is_some());
            errors += usize::from(outcome.raises.is_some());
            if let Err(difference) = compare(outcome, render(&source, &inputs[case])) {
                differences.push(format!("{name}, {case}: {difference}"));
            }
        }
    }
    none_differ(&differences);
    (texts, errors)
}

#[test]
fn every_family_has_a_template() {
    let mut known: Vec<&str> = FAMILIES.iter().map(|family| family.model_type).collect();
    let mut written = templates("");
    known.sort_unstable();
    written.sort_unstable();
    assert_eq!(written, known);
}

#[test]
fn templates_of_families_render_as_in_transformers() {
    let (texts, errors) = check_templates("");
    assert!(texts >= 500 && errors >= 30, "{texts} texts, {errors} errors");
}

#[test]
fn templates_of_older_styles_render_as_in_transformers() {
    let (texts, _) = check_templates("extra");
    assert!(texts >= 100, "{texts} texts");
}

#[test]
fn snippets_render_as_in_transformers() {
    let Snippets { input, snippets } = read("snippets.json");
    assert!(snippets.len() >= 200);
    let differences = snippets.iter().filter_map(|snippet| {
        let difference = compare(&snippet.outcome, render(&snippet.source, &input)).err()?;
        Some(format!("{}: {difference}", snippet.source))
    });
    none_differ(&differences.collect::<Vec<_>>());
}
