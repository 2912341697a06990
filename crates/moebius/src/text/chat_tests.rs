//! Limits, errors and files of chat templates; `tests/chat_templates.rs` holds them against transformers.

use serde_json::Value as JsonValue;

use super::*;

fn template(source: &str) -> ChatTemplate {
    let template = ChatTemplate::new(source).unwrap();
    template.with_special_token("bos_token", "<s>").with_special_token("eos_token", "</s>")
}

#[track_caller]
fn render(source: &str) -> Result<String> {
    template(source).render(&ChatInput { messages: &[Message::new("user", "hi")], ..Default::default() })
}

#[test]
fn a_template_that_never_ends_is_an_error() {
    let endless =
        "{% for a in range(99999) %}{% for b in range(99999) %}{% set c = a %}{% endfor %}{% endfor %}";
    let error = render(endless).unwrap_err();
    assert!(matches!(error, TextError::TemplateLimit { unit: "instructions", .. }), "{error}");
    let error = render("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}").unwrap_err();
    assert!(matches!(error, TextError::Template(_)), "{error}");
}

#[test]
fn a_template_that_writes_without_end_is_an_error() {
    let error =
        render("{% set s = 'x' * 1000000 %}{% for a in range(99999) %}{{ s }}{% endfor %}").unwrap_err();
    assert!(matches!(error, TextError::TemplateLimit { unit: "bytes", .. }), "{error}");
}

#[test]
fn errors_name_the_line() {
    let error = ChatTemplate::new("fine\n{% if %}").unwrap_err();
    assert_eq!(error.to_string().lines().count(), 1);
    assert!(matches!(&error, TextError::TemplateSyntax(message) if message.contains("line 2")), "{error}");
    let error = render("\n\n{{ messages[0].role.nothing.more }}").unwrap_err();
    assert!(matches!(&error, TextError::Template(message) if message.contains("line 3")), "{error}");
}

#[test]
fn slices_of_nothing_are_empty() {
    let template = ChatTemplate::new("{% for m in messages[::-1] %}{{ m.role }}{% endfor %}.").unwrap();
    assert_eq!(template.render(&ChatInput::default()).unwrap(), ".");
}

#[test]
fn fields_that_are_null_are_left_out() {
    let json = Json::parse(r#"{"role": "user", "content": null, "tool_calls": null}"#).unwrap();
    let messages = [Message::from_json(&json).unwrap()];
    let input = ChatInput { messages: &messages, ..Default::default() };
    let rendered = template("{{ messages[0] }}{{ messages[0].content is defined }}").render(&input).unwrap();
    assert_eq!(rendered, "{'role': 'user'}False");
}

#[test]
fn messages_are_objects() {
    let error = Message::from_json(&Json::from("hello")).unwrap_err();
    assert!(matches!(&error, TextError::NotAMessage { got } if got == "string"), "{error}");
    let json = Json::parse(r#"{"role": "user", "content": "a"}"#).unwrap();
    let message = Message::from_json(&json).unwrap();
    assert_eq!(message, Message::new("user", "a"));
    assert_eq!(message.with("content", "b"), Message::new("user", "b"));
}

#[test]
fn templates_reach_no_file() {
    for source in
        ["{% include '/etc/hostname' %}", "{% import 'Cargo.toml' as x %}", "{% extends 'default' %}"]
    {
        assert!(matches!(render(source), Err(TextError::Template(_))), "{source}");
    }
}

#[test]
fn variables_replace_no_input() {
    let template = template("{{ messages | length }}{{ bos_token }}{{ extra }}");
    let variables = ["messages", "bos_token", "extra"].map(|name| (name.to_owned(), Json::from("v")));
    let messages = [Message::new("user", "hi")];
    let input = ChatInput { messages: &messages, variables: &variables, ..Default::default() };
    assert_eq!(template.render(&input).unwrap(), "1vv");
}

#[test]
fn a_directory_gives_its_template_and_its_special_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let write =
        |name: &str, value: JsonValue| std::fs::write(dir.path().join(name), value.to_string()).unwrap();
    assert!(ChatTemplate::from_dir(dir.path()).unwrap().is_none());

    let source = "{{ bos_token }}{{ eos_token }}";
    write(
        "special_tokens_map.json",
        serde_json::json!({"bos_token": "<old>", "eos_token": {"content": "<e>"}}),
    );
    write("tokenizer_config.json", serde_json::json!({"bos_token": "<b>", "chat_template": source}));
    let input = ChatInput::default();
    let rendered =
        |input: &ChatInput<'_>| ChatTemplate::from_dir(dir.path()).unwrap().unwrap().render(input).unwrap();
    assert_eq!(rendered(&input), "<b><e>");

    let list = serde_json::json!([
        {"name": "default", "template": "plain"},
        {"name": "tool_use", "template": "tools"},
    ]);
    write("tokenizer_config.json", serde_json::json!({"chat_template": list}));
    let tools = [Json::parse("{}").unwrap()];
    assert_eq!(rendered(&input), "plain");
    assert_eq!(rendered(&ChatInput { tools: &tools, ..input }), "tools");

    std::fs::write(dir.path().join("chat_template.jinja"), "from the file").unwrap();
    assert_eq!(rendered(&ChatInput { tools: &tools, ..input }), "from the file");
}

#[test]
fn a_broken_configuration_names_its_file_and_key() {
    let dir = tempfile::tempdir().unwrap();
    for (text, expected) in [
        ("[]", "expected a JSON object, got a list"),
        ("{", "EOF"),
        (r#"{"chat_template": 3}"#, "`chat_template`: expected a string or a list, got a number"),
        (
            r#"{"bos_token": {"x": 1}}"#,
            "`bos_token`: expected a string or an object with `content`, got an object",
        ),
        (r#"{"added_tokens_decoder": {"x": {}}}"#, "expected a token id, got `x`"),
    ] {
        std::fs::write(dir.path().join("tokenizer_config.json"), text).unwrap();
        let message = ChatTemplate::from_dir(dir.path()).unwrap_err().to_string();
        assert!(message.contains("tokenizer_config.json") && message.contains(expected), "{message}");
    }
}
