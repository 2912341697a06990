//! A chat on the terminal. A model with a chat template converses; one without continues the text.

use std::io::{self, BufRead, Write};

use moebius::text::{ChatInput, ChatTemplate, Message};
use moebius::{ErrorKind, Prompt};

use crate::args::MeterMode;
use crate::commands::run::Session;
use crate::errors::{self, CliError, Result};
use crate::meter;
use crate::reply::{Outlet, Reply};
use crate::terminal::{GOOD, remark, say};

const COMMANDS: &str =
    "/reset forgets what was said, /exit or Ctrl-D ends, Ctrl-C stops a reply, /help shows this";

/// What was said so far.
enum Memory {
    /// Messages, laid out by the template.
    Conversation { template: Box<ChatTemplate>, system: Option<String>, messages: Vec<Message> },
    /// Ids of a text that goes on; empty when the next line begins a new one.
    Text(Vec<u32>),
}

/// Chats until the end of the input.
pub(crate) fn chat(
    session: &mut Session,
    template: Option<ChatTemplate>,
    system: Option<String>,
    outlet: &mut Outlet,
) -> Result<()> {
    session.model.tokenizer()?;
    let mut memory = match template {
        Some(template) => Memory::Conversation { template: Box::new(template), system, messages: Vec::new() },
        None => Memory::Text(Vec::new()),
    };
    remark(&session.output, memory.welcome());
    remark(&session.output, COMMANDS);
    while let Some(line) = read_line()? {
        match line.trim() {
            "" if !memory.can_go_on() => {}
            "/exit" | "/quit" | "/bye" => break,
            "/help" | "/?" => remark(&session.output, COMMANDS),
            "/reset" | "/clear" => {
                memory.reset();
                remark(&session.output, "all is forgotten");
            }
            command if command.starts_with('/') && !command.contains(char::is_whitespace) => {
                remark(&session.output, &format!("unknown command {command}: {COMMANDS}"));
            }
            _ => turn(session, &mut memory, &line, outlet)?,
        }
    }
    Ok(())
}

/// The next line without its line break; `None` at the end of the input.
fn read_line() -> Result<Option<String>> {
    let mut stderr = anstream::stderr();
    // If stderr is gone there is nobody to prompt.
    let _ = write!(stderr, "{GOOD}> {GOOD:#}").and_then(|()| stderr.flush());
    let mut bytes = Vec::new();
    let read = io::stdin().lock().read_until(b'\n', &mut bytes);
    match read.map_err(|source| CliError::Input { name: "stdin".into(), source })? {
        0 => {
            let _ = writeln!(stderr);
            Ok(None)
        }
        _ => Ok(Some(String::from_utf8_lossy(&bytes).trim_end_matches(['\r', '\n']).to_owned())),
    }
}

/// Answers one line. What the line itself is to blame for does not end the chat.
fn turn(session: &mut Session, memory: &mut Memory, line: &str, outlet: &mut Outlet) -> Result<()> {
    let answered = match memory {
        Memory::Conversation { template, system, messages } => {
            messages.push(Message::new("user", line));
            let rendered = render(template, system.as_deref(), messages);
            let reply = rendered.and_then(|text| session.generate(Prompt::Rendered(&text), outlet));
            match &reply {
                Ok(reply) => messages.push(Message::new("assistant", reply.text.trim())),
                Err(_) => drop(messages.pop()),
            }
            reply
        }
        Memory::Text(ids) => continue_text(session, ids, line, outlet),
    };
    match answered {
        Ok(reply) => {
            if session.meter != MeterMode::Off {
                remark(&session.output, &meter::line(&reply.summary));
            }
            if session.meter == MeterMode::Full {
                say(&meter::tables(&reply.summary, &session.model.residency()));
            }
            if reply.summary.finish == "context" {
                memory.reset();
                remark(&session.output, "the context is full: all is forgotten");
            }
            Ok(())
        }
        Err(CliError::Library(error)) if error.kind() == ErrorKind::Usage => {
            errors::explain(&CliError::Library(error));
            remark(&session.output, "/reset makes room");
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Goes on after the text so far and `line`; a text that ended by itself is forgotten.
fn continue_text(
    session: &mut Session,
    ids: &mut Vec<u32>,
    line: &str,
    outlet: &mut Outlet,
) -> Result<Reply> {
    let mut prompt = ids.clone();
    prompt.extend(session.model.tokenizer()?.encode(line, ids.is_empty())?);
    outlet.continues(line);
    let reply = session.generate(Prompt::Encoded(&prompt), outlet)?;
    ids.clear();
    if reply.summary.finish != "stop" {
        ids.extend(prompt);
        ids.extend(&reply.summary.tokens);
    }
    Ok(reply)
}

/// The text of a conversation, up to where the answer begins.
pub(crate) fn render(template: &ChatTemplate, system: Option<&str>, messages: &[Message]) -> Result<String> {
    let system = system.map(|system| Message::new("system", system));
    let messages: Vec<Message> = system.into_iter().chain(messages.iter().cloned()).collect();
    let input = ChatInput { messages: &messages, add_generation_prompt: true, ..ChatInput::default() };
    Ok(template.render(&input)?)
}

impl Memory {
    fn welcome(&self) -> &'static str {
        match self {
            Memory::Conversation { .. } => "Write a message.",
            Memory::Text(_) => {
                "This model has no chat template, so it continues your text. An empty line goes on with a text \
                 that is not finished."
            }
        }
    }

    /// Whether an empty line means something.
    fn can_go_on(&self) -> bool {
        matches!(self, Memory::Text(ids) if !ids.is_empty())
    }

    fn reset(&mut self) {
        match self {
            Memory::Conversation { messages, .. } => messages.clear(),
            Memory::Text(ids) => ids.clear(),
        }
    }
}
