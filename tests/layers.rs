//! The layers of ARCHITECTURE.md: a module imports only from those below it.
//!
//! Looks at the text of `src/`: every path that starts with `crate::`, alone or inside braces, and
//! every run of `super::` that leaves its module.

use std::fs;
use std::path::{Path, PathBuf};

/// Lowest first. Those in one row do not import each other.
const LAYERS: [&[&str]; 14] = [
    &["base"],
    &["ondisk"],
    &["config"],
    &["device"],
    &["store"],
    &["cache"],
    &["volume"],
    &["snapshot"],
    &["mirror", "check"],
    &["control"],
    &["frontend"],
    &["daemon"],
    &["cli"],
    &["main"],
];

/// Stricter than the order: all that these may import.
const ONLY: [(&str, &[&str]); 2] = [
    // So that the offline check can't inherit the store's mistakes.
    ("check", &["base", "ondisk", "config", "device"]),
    // So that a second frontend finds all it needs there.
    ("frontend", &["base", "config", "volume", "control"]),
];

/// An import that points up.
#[derive(Debug, PartialEq, Eq)]
struct Violation {
    line: usize,
    text: String,
    why: String,
}

#[test]
fn imports_point_down() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut report = String::new();
    for file in rust_files(&src) {
        let inside = file.strip_prefix(&src).unwrap();
        let text = fs::read_to_string(&file).unwrap();
        for found in violations(inside, &text) {
            report += &format!(
                "src/{}:{}: {}\n    {}\n",
                inside.display(),
                found.line,
                found.why,
                found.text
            );
        }
    }
    assert!(report.is_empty(), "imports that point up:\n{report}");
}

#[test]
fn a_violation_is_found() {
    let of = |file: &str, text: &str| {
        let found = violations(Path::new(file), text);
        found.iter().map(|v| v.line).collect::<Vec<_>>()
    };
    let nested = "use std::fmt;\npub use crate::{\n    base::{Block, Seq},\n    volume::Volumes, cache,\n};\n";
    assert_eq!(of("store/map.rs", nested), [4, 4]);
    assert_eq!(of("cli/map.rs", nested), [0usize; 0]);
    assert_eq!(of("base/name.rs", "fn f() { crate::ondisk::x() }"), [1]);
    assert_eq!(
        of("device/file.rs", "use crate::device::Device;"),
        [0usize; 0]
    );
    assert_eq!(
        of(
            "device/mod.rs",
            "// crate::cli\n/* crate::cli */ \"crate::cli\" '\"'"
        ),
        [0usize; 0]
    );
    assert_eq!(of("device/file.rs", "use super::super::volume::X;"), [1]);
    assert_eq!(of("device/mod.rs", "use super::volume::X;"), [1]);
    assert_eq!(of("device/file.rs", "use super::volume::X;"), [0usize; 0]);
    let tests = "mod tests { use super::super::super::volume::X; use super::super::volume::X; }";
    assert_eq!(of("device/file.rs", tests), [1]);
    assert_eq!(
        of("device/file.rs", "use super::super::{base, cli::X};"),
        [1]
    );
    assert_eq!(of("check/scan.rs", "use crate::store::Store;"), [1]);
    assert_eq!(of("check/scan.rs", "use crate::mirror::X;"), [1]);
    assert_eq!(of("check/tree.rs", "use super::super::cache::X;"), [1]);
    assert_eq!(
        of(
            "check/scan.rs",
            "use crate::{base::Seq, ondisk::Root, config::Layout, device::Device};"
        ),
        [0usize; 0]
    );
    assert_eq!(of("frontend/fuse/mod.rs", "use crate::cache::Cache;"), [1]);
    assert_eq!(
        of("frontend/fuse/mod.rs", "use crate::frontend::iscsi::X;"),
        [1]
    );
    assert_eq!(
        of("frontend/fuse/a.rs", "use crate::frontend::fuse::X;"),
        [0usize; 0]
    );
    assert_eq!(of("novel/mod.rs", "use crate::base::Seq;"), [1]);
    assert_eq!(of("cli/mod.rs", "use crate::novel::Seq;"), [1]);
    assert_eq!(
        of("cli/mod.rs", "pub(in crate::cli) fn f() {}"),
        [0usize; 0]
    );
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).expect("the sources can be read") {
        let path = entry.expect("the sources can be read").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn violations(file: &Path, text: &str) -> Vec<Violation> {
    let parts: Vec<String> = file
        .with_extension("")
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .filter(|part| part != "mod" && part != "lib")
        .collect();
    let Some(module) = parts.first() else {
        return Vec::new(); // lib.rs names all modules.
    };
    let code = blank(text);
    let mut found = Vec::new();
    for (at, path) in root_paths(&code, parts.len()) {
        let Some(why) = forbidden(&parts, module, &path) else {
            continue;
        };
        let line = code[..at].matches('\n').count();
        found.push(Violation {
            line: line + 1,
            text: text.lines().nth(line).unwrap_or("").trim().to_owned(),
            why,
        });
    }
    found
}

fn forbidden(parts: &[String], module: &str, path: &[String]) -> Option<String> {
    let target = path.first()?.as_str();
    let rank = |name: &str| LAYERS.iter().position(|row| row.contains(&name));
    if target == module {
        let other = |at: usize| path.get(at).filter(|to| Some(*to) != parts.get(at));
        return match (module, parts.get(1), other(1)) {
            ("frontend", Some(from), Some(to)) if ["fuse", "iscsi"].contains(&to.as_str()) => {
                Some(format!("frontend/{from} may not import frontend/{to}"))
            }
            _ => None,
        };
    }
    let (Some(from), Some(to)) = (rank(module), rank(target)) else {
        return Some(format!(
            "{module} or {target} is no layer; give it a place in LAYERS"
        ));
    };
    if to >= from {
        return Some(format!("{module} may not import {target}"));
    }
    let only = ONLY.iter().find(|(strict, _)| *strict == module)?;
    (!only.1.contains(&target)).then(|| format!("{module} may import {:?} only", only.1))
}

/// The text with comments, strings and character literals blanked, of the same length.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let end = if rest.starts_with(b"//") {
            at + find(rest, b"\n").unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            at + find(rest, b"*/").map_or(rest.len(), |n| n + 2)
        } else if let Some(hashes) = raw_string(bytes, at) {
            let close = [b"\"".as_slice(), &b"#".repeat(hashes)].concat();
            let open = hashes + 2;
            at + open + find(&rest[open..], &close).map_or(rest.len() - open, |n| n + close.len())
        } else if rest[0] == b'"' {
            at + quoted(rest)
        } else if rest.starts_with(b"'\\")
            || (rest.len() > 2 && rest[0] == b'\'' && rest[2] == b'\'')
        {
            at + 3
                + find(&rest[3..], b"'")
                    .filter(|_| rest[1] == b'\\')
                    .map_or(0, |n| n + 1)
        } else {
            at += 1;
            continue;
        };
        let end = end.min(out.len());
        out[at..end]
            .iter_mut()
            .filter(|byte| **byte != b'\n')
            .for_each(|byte| *byte = b' ');
        at = end.max(at + 1);
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The hashes of a raw string that starts here.
fn raw_string(bytes: &[u8], at: usize) -> Option<usize> {
    let word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    if bytes[at] != b'r' || (word && bytes[at - 1] != b'b') {
        return None;
    }
    let hashes = bytes[at + 1..]
        .iter()
        .take_while(|byte| **byte == b'#')
        .count();
    (bytes.get(at + 1 + hashes) == Some(&b'"')).then_some(hashes)
}

fn quoted(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != b'"' {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// Paths from the crate's root: where each stands, and its first two words.
fn root_paths(code: &str, depth: usize) -> Vec<(usize, Vec<String>)> {
    let mut found = Vec::new();
    let mut braces: Vec<bool> = Vec::new(); // Whether each open brace is an inline module's.
    for (at, token) in tokens(code) {
        let rest = &code[at + token.len()..];
        match token {
            "{" => braces.push(opens_module(&code[..at])),
            "}" => drop(braces.pop()),
            "crate" if rest.trim_start().starts_with("::") => expand(code, at + 5, &mut found),
            "super" if !code[..at].trim_end().ends_with("::") => {
                let inline = braces.iter().filter(|module| **module).count();
                let (supers, end) = count_supers(code, at);
                if supers >= depth + inline && code[end..].trim_start().starts_with("::") {
                    expand(code, end, &mut found);
                }
            }
            _ => {}
        }
    }
    found
}

fn opens_module(before: &str) -> bool {
    let mut words = before.split_whitespace().rev();
    words.next();
    words.next() == Some("mod")
}

fn count_supers(code: &str, at: usize) -> (usize, usize) {
    let (mut count, mut end) = (1, at + 5);
    while let Some(rest) = code[end..].trim_start().strip_prefix("::") {
        let Some(after) = rest.trim_start().strip_prefix("super") else {
            break;
        };
        count += 1;
        end = code.len() - after.len();
    }
    (count, end)
}

/// Follows `::name::name` or `::{name::…, name}` from here.
fn expand(code: &str, at: usize, found: &mut Vec<(usize, Vec<String>)>) {
    let mut path: Vec<String> = Vec::new();
    let mut last = at;
    for (offset, token) in tokens(&code[at..]) {
        match token {
            ":" => continue,
            "{" if path.is_empty() => {
                // A list at the root: each of its members is a path.
                list(code, at + offset + 1, found);
                return;
            }
            word if word.starts_with(|c: char| c.is_alphabetic() || c == '_') => {
                // A word that no '::' leads to is not of this path.
                if !code[last..at + offset].contains("::") {
                    break;
                }
                path.push(word.to_owned());
                last = at + offset + word.len();
            }
            _ => break,
        }
    }
    if !path.is_empty() {
        found.push((last.saturating_sub(1), path));
    }
}

fn list(code: &str, at: usize, found: &mut Vec<(usize, Vec<String>)>) {
    let (mut depth, mut first) = (1, true);
    for (offset, token) in tokens(&code[at..]) {
        match token {
            "{" => depth += 1,
            "}" => depth -= 1,
            "," => first = depth == 1,
            ":" => {}
            word => {
                if first && depth == 1 {
                    found.push((at + offset, vec![word.to_owned()]));
                }
                first = false;
            }
        }
        if depth == 0 {
            return;
        }
    }
}

/// Words and single signs with where they stand.
fn tokens(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = &code[at..];
        let start = at + rest.find(|c: char| !c.is_whitespace())?;
        let rest = &code[start..];
        let first = rest.chars().next()?;
        let len = if word(first) {
            rest.find(|c| !word(c)).unwrap_or(rest.len())
        } else {
            first.len_utf8()
        };
        at = start + len;
        Some((start, &code[start..at]))
    })
}
