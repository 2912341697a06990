//! The book says what the program prints.
//!
//! Blocks of ```console hold commands after `$ `, each followed by its output. With `MOEBIUS_BLESS` set the pages are
//! rewritten instead of compared.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use support::{moebius, stderr};

const FENCE: &str = "```console";

fn book() -> PathBuf {
    root().join("docs/src")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The words of a command line; quotes keep spaces.
fn words(line: &str) -> Vec<String> {
    let quoted = line.split('"').enumerate().map(|(index, part)| (index % 2 == 1, part));
    let split = |(is_quoted, part): (bool, &str)| -> Vec<String> {
        if is_quoted { vec![part.to_owned()] } else { part.split_whitespace().map(String::from).collect() }
    };
    quoted.flat_map(split).collect()
}

/// What a command prints, run in the root of the repository.
fn printed(line: &str) -> String {
    let words = words(line);
    let (program, args) = words.split_first().expect("a command");
    assert_eq!(program, "moebius", "`{line}`: pages run this program alone");
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let output = moebius(&args).current_dir(root()).output().expect("the program starts");
    assert!(output.status.success(), "`{line}`: {}", stderr(&output));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The page with what its commands print now.
fn blessed(page: &str) -> String {
    let mut text = String::new();
    let mut in_block = false;
    for line in page.lines() {
        let command = line.strip_prefix("$ ").filter(|_| in_block);
        if line == FENCE || (in_block && line == "```") {
            in_block = !in_block;
        } else if in_block && command.is_none() {
            continue;
        }
        text += &format!("{line}\n");
        if let Some(command) = command {
            text += &printed(command);
        }
    }
    text
}

#[test]
fn every_command_in_the_book_prints_what_its_page_says() {
    let bless = std::env::var_os("MOEBIUS_BLESS").is_some();
    let summary = fs::read_to_string(book().join("SUMMARY.md")).expect("a summary");
    let mut commands = 0;
    for entry in fs::read_dir(book()).expect("the book's folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        assert!(name == "SUMMARY.md" || summary.contains(&format!("({name})")), "`{name}` is in no summary");
        let page = fs::read_to_string(&path).expect("a page");
        let now = blessed(&page);
        commands += now.lines().filter(|line| line.starts_with("$ moebius ")).count();
        if bless && now != page {
            fs::write(&path, now).expect("the page can be written");
            continue;
        }
        for (line, (said, prints)) in page.lines().zip(now.lines()).enumerate() {
            assert_eq!(said, prints, "{name}:{}: bless the book if that is right", line + 1);
        }
        assert_eq!(page.lines().count(), now.lines().count(), "{name}: bless the book if that is right");
    }
    assert!(commands >= 6, "{commands}");
}

/// Where the links of a page lead, without those into the network.
fn links(page: &str) -> Vec<&str> {
    let targets = page.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.filter(|target| !target.contains("://")).collect()
}

#[test]
fn no_link_leads_out_of_the_book_or_nowhere() {
    let mut checked = 0;
    for entry in fs::read_dir(book()).expect("the book's folder") {
        let path = entry.expect("an entry").path();
        let page = fs::read_to_string(&path).expect("a page");
        for target in links(&page) {
            let file = target.split('#').next().unwrap_or_default();
            // What is not below the pages is not there once the book is built.
            let inside = !file.starts_with("..") && !file.starts_with('/');
            assert!(
                inside && (file.is_empty() || book().join(file).is_file()),
                "{}: `{target}`",
                path.display()
            );
            checked += 1;
        }
    }
    assert!(checked >= 8, "{checked}");
}
