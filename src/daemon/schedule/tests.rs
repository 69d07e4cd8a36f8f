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
    let name = "n-2026-11-28T04-00-00Z";
    state.announce("n", name, &["d".to_owned()]);
    let mut again = State::load(file.clone());
    again.begin(&rules, time("2026-11-28T09:00:00Z"));
    let last = again.last("n", time("2026-11-28T09:00:00Z"));
    assert_eq!(last, time("2026-11-28T03:15:00Z"), "so it is due now, once");
    let announced = (name.to_owned(), vec!["d".to_owned()]);
    assert_eq!(again.announced("n"), Some(announced));
    let taken = Taken {
        disk: "d".to_owned(),
        name: name.to_owned(),
        identity: (1, 2),
    };
    assert_eq!(taken.time("n"), Some(time("2026-11-28T04:00:00Z")));
    again.settle("n", taken.time("n"), vec![taken.clone()], None);
    let mut later = State::load(file.clone());
    assert_eq!(later.taken("n").as_slice(), std::slice::from_ref(&taken));
    assert_eq!(later.announced("n"), None);
    let now = time("2026-11-28T09:00:00Z");
    assert_eq!(later.last("n", now), time("2026-11-28T04:00:00Z"));
    // A schedule that is gone for a while knows its snapshots when it comes back.
    later.begin(&[], now);
    later.begin(&rules, now);
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
    Hook::run(Some(&line), &environment, &ended, Duration::ZERO).unwrap();
    assert_eq!(std::fs::read_to_string(&out).unwrap(), "n n-1 a,b ok\n");
    assert!(Hook::run(None, &environment, &ended, Duration::ZERO).is_ok());
    assert!(
        Hook::run(Some("exit 3"), &environment, &ended, Duration::ZERO)
            .unwrap_err()
            .contains('3')
    );
    drop(alive);
    let stopped = Hook::run(Some("sleep 100"), &environment, &ended, Duration::ZERO).unwrap_err();
    assert!(stopped.contains("stops"), "{stopped}");
    // What is to be run in any case has its time.
    let line = format!("sleep 0.3; echo over > {}", out.display());
    Hook::run(Some(&line), &environment, &ended, GRACE).unwrap();
    assert_eq!(std::fs::read_to_string(&out).unwrap(), "over\n");
    let started = std::time::Instant::now();
    let grace = Duration::from_millis(200);
    Hook::run(Some("sleep 100 & wait"), &environment, &ended, grace).unwrap_err();
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "all of it is ended"
    );
}
