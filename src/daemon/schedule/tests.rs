use super::state::State;
use super::*;
use crate::config::Settings;

fn rules(text: &str) -> Vec<ScheduleRule> {
    Settings::parse("test", text.as_bytes()).unwrap().snapshots
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[test]
fn what_was_done_is_known_again() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("schedules.yaml");
    let rules = rules("snapshots: [{name: n, disks: '*', every: 1h, keep: {last: 1}}]");
    let mut state = State::load(file.clone());
    state.begin(&rules, time("2026-11-28T03:15:00Z"));
    state.note(
        "n",
        time("2026-11-28T04:00:00Z"),
        Some("n-2026-11-28T04-00-00Z"),
    );
    let mut again = State::load(file.clone());
    again.begin(&rules, time("2026-11-28T09:00:00Z"));
    let last = again.last("n", time("2026-11-28T09:00:00Z"));
    assert_eq!(last, time("2026-11-28T04:00:00Z"), "so it is due now, once");
    assert_eq!(
        again.announced("n").as_deref(),
        Some("n-2026-11-28T04-00-00Z")
    );
    let taken = Taken {
        disk: "d".to_owned(),
        name: "n-2026-11-28T04-00-00Z".to_owned(),
        identity: (1, 2),
    };
    assert_eq!(taken.time("n"), Some(time("2026-11-28T04:00:00Z")));
    again.adopt("n", vec![taken.clone()]);
    assert_eq!(State::load(file.clone()).taken("n"), [taken]);

    // A clock that went back does not stop a schedule.
    assert_eq!(
        again.last("n", time("2020-01-01T00:00:00Z")),
        time("2020-01-01T00:00:00Z")
    );
    std::fs::write(&file, "nonsense: [").unwrap();
    assert!(State::load(file).taken("n").is_empty());
}

#[test]
fn hooks_are_run_told_and_ended() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let environment = Environment {
        schedule: "n".to_owned(),
        name: "n-1".to_owned(),
        disks: "a,b".to_owned(),
        result: Some(true),
    };
    let (alive, ended) = unbounded();
    let line = format!(
        "echo $SNAPMARK_SCHEDULE $SNAPMARK_NAME $SNAPMARK_DISKS $SNAPMARK_RESULT > {}",
        out.display()
    );
    Hook::run(Some(&line), &environment, &ended).unwrap();
    assert_eq!(std::fs::read_to_string(&out).unwrap(), "n n-1 a,b ok\n");
    assert!(Hook::run(None, &environment, &ended).is_ok());
    assert!(
        Hook::run(Some("exit 3"), &environment, &ended)
            .unwrap_err()
            .contains('3')
    );
    drop(alive);
    let stopped = Hook::run(Some("sleep 100"), &environment, &ended).unwrap_err();
    assert!(stopped.contains("stops"), "{stopped}");
}
