//! What is generated into `contrib/` from the command line is current. With `SNAPMARK_BLESS=1`
//! it is written instead.

use std::fs;
use std::path::Path;

use clap_complete::Shell;

#[test]
fn completions_and_man_pages_are_current() {
    let contrib = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib");
    let shells = [
        (Shell::Bash, "snapmark.bash"),
        (Shell::Zsh, "_snapmark"),
        (Shell::Fish, "snapmark.fish"),
    ];
    let mut wanted: Vec<(String, String)> = shells
        .into_iter()
        .map(|(shell, name)| {
            (
                format!("completions/{name}"),
                snapmark::cli::completions(shell),
            )
        })
        .collect();
    for (name, text) in snapmark::cli::man_pages().unwrap() {
        wanted.push((format!("man/{name}"), text));
    }
    let mut stale = Vec::new();
    for (name, text) in &wanted {
        let path = contrib.join(name);
        if std::env::var_os("SNAPMARK_BLESS").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
        } else if fs::read_to_string(&path).ok().as_deref() != Some(text) {
            stale.push(name.as_str());
        }
    }
    for dir in ["completions", "man"] {
        for entry in fs::read_dir(contrib.join(dir)).unwrap() {
            let name = format!("{dir}/{}", entry.unwrap().file_name().to_string_lossy());
            if !wanted.iter().any(|(wanted, _)| *wanted == name) {
                stale.push(Box::leak(name.into_boxed_str()));
            }
        }
    }
    assert!(
        stale.is_empty(),
        "not what the command line gives: {stale:?}; run: SNAPMARK_BLESS=1 cargo test --test contrib"
    );
}
