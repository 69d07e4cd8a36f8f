//! What the documents promise is there: the example settings parse, the README's commands and
//! options exist, its files are in the repository.

use std::fs;
use std::path::{Path, PathBuf};

use snapmark::config::Settings;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn example_settings_parse_and_differ_from_the_defaults() {
    let files: Vec<PathBuf> = fs::read_dir(root().join("examples"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "yaml"))
        .collect();
    assert!(files.len() >= 3, "{files:?}");
    for file in files {
        let name = file.display().to_string();
        let settings = Settings::parse(&name, &fs::read(&file).unwrap());
        let settings = settings.unwrap_or_else(|error| panic!("{error}"));
        assert_ne!(settings, Settings::default(), "{name}");
    }
}

#[test]
fn example_priorities_are_what_their_comments_say() {
    let parse = |name: &str| Settings::parse(name, text(name).as_bytes()).unwrap();
    let vms = parse("examples/many-vms.yaml");
    let of = |disk: &str| vms.priority(disk);
    assert_eq!(
        (of("prod-1.img"), of("scratch-a.img"), of("x")),
        (200, 0, 100)
    );
    let database = parse("examples/database-server.yaml");
    assert_eq!(database.priority("db1.img"), 200);
    assert_eq!(
        database.journal_path(Path::new("/store")),
        Path::new("/nvme/snapmark.journal")
    );
}

/// Every `snapmark ...` command line in code of a document: from the word to the line's end or
/// what ends a command there.
fn command_lines(document: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut fenced = false;
    for line in document.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            continue;
        }
        let codes: Vec<&str> = if fenced {
            vec![line]
        } else {
            line.split('`').skip(1).step_by(2).collect()
        };
        for code in codes {
            for (at, _) in code.match_indices("snapmark ") {
                let starts = at == 0 || code[..at].ends_with([' ', '(']);
                let command = &code[at + "snapmark ".len()..];
                let end = command.find(['#', ';', '|', '&', '>', ')']);
                let command = command[..end.unwrap_or(command.len())].trim();
                if starts && !command.is_empty() {
                    lines.push(command.to_owned());
                }
            }
        }
    }
    lines
}

fn find<'a>(command: &'a clap::Command, word: &str) -> Option<&'a clap::Command> {
    command
        .get_subcommands()
        .find(|sub| sub.get_name() == word || sub.get_all_aliases().any(|alias| alias == word))
}

/// What is wrong with a command line, if anything.
fn fault(line: &str) -> Option<String> {
    let cli = snapmark::cli::command();
    let mut words = line.split_whitespace();
    let verb = words.next()?;
    if verb.starts_with('-') {
        return (verb != "--help" && verb != "--version").then(|| format!("no option {verb}"));
    }
    let Some(mut command) = find(&cli, verb) else {
        return (verb != "help").then(|| format!("no verb {verb:?}"));
    };
    let mut words = words.peekable();
    if let Some(sub) = words.peek().and_then(|word| find(command, word)) {
        command = sub;
    }
    for word in words.filter(|word| word.starts_with("--") && word.len() > 2) {
        let name = word.trim_start_matches('-').split('=').next()?;
        let known = command
            .get_arguments()
            .any(|argument| argument.get_long() == Some(name));
        if !known && name != "help" {
            return Some(format!("{verb} has no option --{name}"));
        }
    }
    None
}

#[test]
fn commands_in_the_documents_exist() {
    let mut seen = 0;
    for name in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"] {
        for line in command_lines(&text(name)) {
            seen += 1;
            if let Some(fault) = fault(&line) {
                panic!("{name}: snapmark {line}: {fault}");
            }
        }
    }
    assert!(
        seen > 15,
        "only {seen} commands found: is the search right?"
    );
    assert!(fault("explode mnt").is_some() && fault("list --yaml").is_some());
}

/// The links of a document that lead into the repository.
fn links(document: &str) -> Vec<String> {
    let ends = document.split("](").skip(1);
    ends.filter_map(|rest| rest.split(')').next())
        .filter(|link| !link.starts_with("http") && !link.starts_with('#'))
        .map(|link| link.split('#').next().unwrap_or(link).to_owned())
        .collect()
}

#[test]
fn links_in_the_documents_lead_somewhere() {
    for name in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"] {
        for link in links(&text(name)) {
            assert!(root().join(&link).exists(), "{name} links to {link}");
        }
    }
}

/// Files that ARCHITECTURE.md names as `src/...` exist: the code moves, the text has to follow.
#[test]
fn files_named_in_architecture_exist() {
    let document = text("ARCHITECTURE.md");
    let paths = document
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|code| code.starts_with("src/") && !code.contains([' ', '*', '{']));
    let mut seen = 0;
    for path in paths {
        seen += 1;
        assert!(root().join(path).exists(), "{path}");
    }
    assert!(seen > 20, "only {seen} files found");
}

/// README's table of settings has every setting, with its default.
#[test]
fn the_settings_table_is_complete() {
    let readme = text("README.md");
    for line in Settings::default_file().lines() {
        let Some((indent, setting)) = line.split_once('#') else {
            continue;
        };
        let is_setting = indent == "  " && setting.starts_with(|c: char| c.is_ascii_lowercase());
        let Some((key, value)) = setting.split_once(": ").filter(|_| is_setting) else {
            continue;
        };
        let row = readme.lines().any(|row| {
            row.starts_with('|') && row.contains(&format!(".{key}`")) && row.contains(value)
        });
        assert!(row, "README's table lacks {key}, {value}");
    }
}
