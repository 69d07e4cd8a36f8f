use std::time::Duration;

use super::*;

fn parse(text: &str) -> Result<Settings, SettingsError> {
    Settings::parse("store.yaml", text.as_bytes())
}

/// The error's text.
fn refused(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn an_empty_file_gives_the_defaults() {
    for text in [
        "",
        "\n",
        "# nothing\n",
        "---\n",
        "cache:\njournal:\ndisks:\n",
        "{}",
    ] {
        assert_eq!(parse(text).unwrap(), Settings::default(), "{text:?}");
    }
}

#[test]
fn the_template_parses_to_the_defaults() {
    assert_eq!(
        parse(&Settings::default_file()).unwrap(),
        Settings::default()
    );
}

#[test]
fn chosen_settings_stand_in_the_template_and_the_rest_stays() {
    let chosen = [
        ("cache", "size", "8MiB".to_owned()),
        ("journal", "size", "16 MiB".to_owned()),
        ("journal", "path", "\"/srv/j: #1\"".to_owned()),
        ("cache", "mode", "volatile".to_owned()),
    ];
    let text = Settings::file_with(&chosen);
    let mut wanted = Settings::default();
    wanted.cache.size = ByteSize(8 << 20);
    wanted.cache.mode = CacheMode::Volatile;
    wanted.journal.size = ByteSize(16 << 20);
    wanted.journal.path = "/srv/j: #1".into();
    assert_eq!(parse(&text).unwrap(), wanted);
    let lines = |text: &str| text.lines().count();
    assert_eq!(lines(&text), lines(&Settings::default_file()));
    assert_eq!(Settings::file_with(&[]), Settings::default_file());
}

/// The template with its settings no longer behind a `#`.
fn uncommented() -> String {
    let template = Settings::default_file();
    let lines = template.lines().map(|line| {
        let text = line.trim_start();
        match text.strip_prefix('#') {
            Some(setting) if setting.starts_with(|c: char| c.is_ascii_lowercase()) => {
                format!("{}{setting}\n", &line[..line.len() - text.len()])
            }
            _ => format!("{line}\n"),
        }
    });
    lines.collect()
}

#[test]
fn the_template_has_every_setting_with_its_default() {
    let text = uncommented();
    assert_eq!(parse(&text).unwrap(), Settings::default());
    let given: serde_yaml::Value = serde_yaml::from_str(&text).unwrap();
    let known = serde_yaml::to_value(Settings::default()).unwrap();
    let keys = |value: &serde_yaml::Value| -> Vec<String> {
        let sections = value.as_mapping().unwrap().iter();
        sections
            .flat_map(|(section, content)| {
                let section = section.as_str().unwrap();
                let inner = content.as_mapping().into_iter().flatten();
                std::iter::once(section.to_owned()).chain(
                    inner.map(move |(key, _)| format!("{section}.{}", key.as_str().unwrap())),
                )
            })
            .collect()
    };
    assert_eq!(keys(&given), keys(&known));
    assert!(keys(&known).len() > 15);
}

#[test]
fn everything_can_be_set() {
    let settings = parse(
        "
cache: {size: 1GiB, mode: volatile}
journal: {size: 2GiB, path: /fast/journal}
destage: {interval: 500ms, batch: 8MiB}
disks:
  - {match: 'db*', priority: 200}
  - {match: '*', priority: 7}
space: {warn: [50, 75, 90]}
fuse: {threads: 8, max_background: 12, allow_other: true}
log: {level: debug}
",
    )
    .unwrap();
    assert_eq!(settings.cache.size, ByteSize(1 << 30));
    assert_eq!(settings.cache.mode, CacheMode::Volatile);
    assert_eq!(
        settings.journal_path(Path::new("/store")),
        Path::new("/fast/journal")
    );
    assert_eq!(settings.destage.interval.0, Duration::from_millis(500));
    assert_eq!(
        (settings.priority("db1.img"), settings.priority("x")),
        (200, 7)
    );
    assert_eq!(settings.space.warn, [50, 75, 90]);
    assert_eq!(settings.fuse.threads, 8);
    assert_eq!(settings.log.level, LogLevel::Debug);
    let written = serde_yaml::to_string(&settings).unwrap();
    assert_eq!(parse(&written).unwrap(), settings);

    let default = Settings::default();
    assert_eq!(
        default.journal_path(Path::new("/store")),
        Path::new("/store/journal")
    );
    assert_eq!(default.priority("anything"), 0);
}

#[test]
fn an_error_says_where_what_and_what_to_do() {
    assert_eq!(
        refused("cache:\n  size: 1MiB\n"),
        "store.yaml:2:9: cache.size: 1 MiB is not from 4 MiB to 1 TiB; correct it, or remove it \
         to have the default"
    );
    let unknown = refused("cache:\n  sise: 1MiB\n");
    assert!(unknown.starts_with("store.yaml:2:3: "), "{unknown}");
    assert!(
        unknown.contains("`sise`") && unknown.contains("`size`"),
        "{unknown}"
    );
}

#[test]
fn values_out_of_range_are_refused() {
    for (text, words) in [
        ("cashe: {}", "`cashe`"),
        ("cache: {size: lots}", "no size"),
        ("cache: {size: -5}", "a size such as"),
        ("cache: {size: 2TiB}", "not from 4 MiB to 1 TiB"),
        ("cache: {mode: fast}", "`volatile`"),
        ("journal: {size: 4MiB}", "not from 8 MiB"),
        ("destage: {interval: 5}", "destage.interval"),
        ("destage: {interval: 5}", "500ms, 2s"),
        ("destage: {interval: 1ms}", "not from 10ms to 1h"),
        ("destage: {batch: 4KiB}", "not from 1 MiB to 1 GiB"),
        ("space: {warn: [95, 80]}", "rising"),
        ("space: {warn: [0]}", "rising"),
        ("space: {warn: [101]}", "rising"),
        ("fuse: {threads: 0}", "not from 1 to 64"),
        ("fuse: {max_background: 5000}", "not from 1 to 4096"),
        ("fuse: {allow_other: maybe}", "boolean"),
        ("disks: [{match: '', priority: 1}]", "empty"),
        ("disks: [{match: '*'}]", "priority"),
        ("disks: [{match: '*', priority: 256}]", "256"),
        ("log: {level: loud}", "`info`"),
        ("cache: {size: 8MiB}\ncache: {size: 9MiB}", "duplicate"),
        ("cache: [", "store.yaml:"),
        ("just words", "store.yaml:1:1"),
        ("journal: {path: ''}", "empty"),
    ] {
        let message = refused(text);
        assert!(message.contains(words), "{text}: {message}");
    }
    assert!(Settings::parse("store.yaml", b"cache: \xff\xfe").is_err());
}

#[test]
fn a_file_is_loaded_and_a_link_or_a_huge_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let load = || Settings::load(dir.path());
    assert!(matches!(load(), Err(SettingsError::Missing(_))));
    let path = dir.path().join("store.yaml");
    std::fs::write(&path, Settings::default_file()).unwrap();
    assert_eq!(load().unwrap(), Settings::default());

    std::fs::write(&path, "#".repeat(64 << 10)).unwrap();
    assert_eq!(load().unwrap(), Settings::default());
    std::fs::write(&path, "#".repeat((64 << 10) + 1)).unwrap();
    assert!(matches!(load(), Err(SettingsError::TooLong(_))));

    std::fs::rename(&path, dir.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink("elsewhere", &path).unwrap();
    assert!(matches!(load(), Err(SettingsError::Read { .. })));
}
