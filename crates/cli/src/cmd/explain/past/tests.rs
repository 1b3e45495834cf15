//! Tests of the module above.

use cohmem::Reason;

use super::*;

fn past(event: Event, age: u64, change_fn: impl FnOnce(&mut Record)) -> Past {
    let mut record = Record::default();
    record.age = Duration::from_secs(age);
    record.event = Some(event);
    record.cause = Some(Cause::Migrate);
    record.by = 12;
    record.nr_pages = 1;
    change_fn(&mut record);
    Past {
        device: 0,
        record,
        asker: Some("cohmem".to_owned()),
    }
}

#[test]
fn a_page_on_a_device_is_told_with_the_move_that_brought_it() {
    let came = past(Event::Arrived, 12, |record| record.nr_pages = 512);
    let all = [came, past(Event::Left, 20, |_| ())];
    assert_eq!(
        why(&all, Tier::Device, Some(0)),
        "12 s ago it moved from system memory to cohmem0 (a migration by process 12 (cohmem), one of 512 pages)"
    );
    // What was tried in vain does not matter for where it is.
    let mut all = all.to_vec();
    all.insert(
        0,
        past(Event::Stuck, 1, |record| {
            record.reason = Some(Reason::Pinned)
        }),
    );
    assert!(why(&all, Tier::Device, Some(0)).starts_with("12 s ago"));
    // It is on another one than the record says, or there is none.
    for all in [&all[..], &[]] {
        assert!(why(all, Tier::Device, Some(1)).contains("does not remember"));
    }
}

#[test]
fn a_page_that_went_from_device_to_device_is_on_the_other() {
    let left = past(Event::Left, 3, |record| record.other = Some(1));
    assert_eq!(
        why(&[left], Tier::Device, Some(1)),
        "3.0 s ago it moved from cohmem0 to cohmem1 (a migration by process 12 (cohmem))"
    );
}

#[test]
fn a_page_at_home_is_told_with_what_keeps_it_or_brought_it_there() {
    let evicted = past(Event::Left, 200, |record| record.cause = Some(Cause::Evict));
    assert_eq!(
        why(std::slice::from_ref(&evicted), Tier::System, None),
        "3 min ago it moved from cohmem0 to system memory (an eviction by process 12 (cohmem))"
    );
    let stayed = past(Event::Stayed, 5, |record| {
        record.reason = Some(Reason::Quota)
    });
    let told = why(&[stayed, evicted], Tier::System, None);
    assert!(told.starts_with("5.0 s ago it was to move to cohmem0 and stayed: the quota"));
    let gone = Past {
        asker: None,
        ..past(Event::Arrived, 2, |_| ())
    };
    assert!(gone.line().contains("by process 12, which is gone"));
    assert!(why(&[gone], Tier::System, None).contains("was replaced since"));
    assert!(why(&[], Tier::System, None).starts_with("nobody asked"));
    assert_eq!(why(&[], Tier::None, None), "there is nothing to move");
}

#[test]
fn ages_are_short() {
    for (seconds, text) in [
        (0, "0.0 s ago"),
        (9, "9.0 s ago"),
        (119, "119 s ago"),
        (120, "2 min ago"),
        (7200, "2 h ago"),
        (400_000, "4 days ago"),
    ] {
        assert_eq!(ago(Duration::from_secs(seconds)), text);
    }
}

#[test]
fn a_row_names_what_a_script_looks_for() {
    let row = past(Event::Stayed, 1, |record| {
        record.reason = Some(Reason::Quota)
    })
    .row();
    let row = serde_json::to_value(row).unwrap();
    assert_eq!(row["event"], "stayed");
    assert_eq!(row["cause"], "migrate");
    assert_eq!(row["reason"], "quota");
    assert_eq!(row["device"], "cohmem0");
    assert_eq!(row["age_ns"], 1_000_000_000);
    assert!(row["other"].is_null());
}
