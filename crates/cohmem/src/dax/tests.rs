//! Taking over and giving back, on a fake machine.

use std::{fs, os::unix::fs::symlink};

use super::{fake::FakeMachine, takeover, *};
use crate::ErrorKind;

fn taken_from(machine: &FakeMachine, source: &str) -> Result<TakeOver> {
    take_over_in(machine, &source.parse().unwrap())
}

#[test]
fn sources_are_told_apart() {
    for (text, source) in [
        ("dax0.0", Source::Device("dax0.0".to_owned())),
        ("/dev/dax12.3", Source::Device("dax12.3".to_owned())),
        ("hmem.1", Source::Region("hmem.1".to_owned())),
        (
            "0x100000000+256M",
            Source::Range("0x100000000-0x110000000".parse().unwrap()),
        ),
    ] {
        assert_eq!(text.parse::<Source>().unwrap(), source);
    }
    for text in [
        "",
        "dax",
        "dax0",
        "dax0.",
        "daxa.b",
        "hmem",
        "hmem.x",
        "../dax0.0",
        "ram",
    ] {
        let error = text.parse::<Source>().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("daxX.Y"), "{error}");
    }
    assert!(
        "0x1000"
            .parse::<Source>()
            .unwrap_err()
            .to_string()
            .contains("START+SIZE")
    );
}

#[test]
fn device_dax_is_unbound_and_bound_again() {
    let machine = FakeMachine::new(&[Some("device_dax")]);
    let taken = taken_from(&machine, "dax0.0").unwrap();
    assert_eq!(taken.range().to_string(), "0x100000000-0x110000000");
    assert_eq!(
        taken.taken().collect::<Vec<_>>(),
        [("dax0.0", DaxDriver::DeviceDax, 0)]
    );
    assert_eq!(machine.driver("dax0.0"), None);
    takeover::give_back(&machine, &taken.taken).unwrap();
    assert_eq!(machine.driver("dax0.0").as_deref(), Some("device_dax"));
    assert_eq!(
        *machine.log.borrow(),
        [
            "device_dax/unbind=dax0.0",
            "device_dax/bind=dax0.0",
            "device_dax/new_id=dax0.0"
        ]
    );
}

#[test]
fn kmem_goes_offline_block_by_block_from_the_end_before_it_is_unbound() {
    let machine = FakeMachine::new(&[Some("kmem")]);
    assert_eq!(machine.blocks(), ["32:online:Movable", "33:online:Movable"]);
    let taken = taken_from(&machine, "hmem.0").unwrap();
    assert_eq!(
        *machine.log.borrow(),
        [
            "memory33/state=offline",
            "memory32/state=offline",
            "kmem/unbind=dax0.0"
        ]
    );
    assert!(!machine.is_lost.get());
    assert_eq!(machine.blocks(), [""; 0]);
    assert_eq!(
        taken.taken().collect::<Vec<_>>(),
        [("dax0.0", DaxDriver::Kmem, 2)]
    );
    takeover::give_back(&machine, &taken.taken).unwrap();
    assert_eq!(machine.blocks(), ["32:online:Movable", "33:online:Movable"]);
}

#[test]
fn blocks_come_back_in_the_zone_they_were_in() {
    let machine = FakeMachine::new(&[Some("kmem")]);
    machine.set_block(33, "offline", "Normal Movable");
    let taken = taken_from(&machine, "dax0.0").unwrap();
    assert_eq!(taken.taken().next().unwrap().2, 1);
    // The machine's policy for new memory is another one.
    *machine.policy.borrow_mut() = "Normal";
    takeover::give_back(&machine, &taken.taken).unwrap();
    assert_eq!(machine.blocks()[0], "32:online:Movable");
}

#[test]
fn a_refusing_block_leaves_everything_as_it_was() {
    for refusing in ["memory32", "memory33"] {
        let machine = FakeMachine::new(&[Some("kmem")]);
        machine.set_block(33, "online", "Normal");
        let before = machine.blocks();
        *machine.refusing.borrow_mut() = Some(refusing.to_owned());
        let error = taken_from(&machine, "dax0.0").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert_eq!(error.raw_os_error(), Some(libc::EBUSY));
        let message = error.to_string();
        assert!(
            message.contains(&format!("memory block {refusing} (0x1")),
            "{message}"
        );
        assert!(message.contains("of dax0.0 stays online"), "{message}");
        assert!(message.contains("nothing has changed"), "{message}");
        assert_eq!(machine.blocks(), before);
        assert_eq!(machine.driver("dax0.0").as_deref(), Some("kmem"));
        assert!(
            !machine
                .log
                .borrow()
                .iter()
                .any(|write| write.contains("unbind"))
        );
        assert_eq!(
            machine.nr_pauses.get(),
            4,
            "a block that is busy for a moment is tried again"
        );
    }
}

#[test]
fn an_offline_write_is_not_believed() {
    let machine = FakeMachine::new(&[Some("kmem")]);
    *machine.lying.borrow_mut() = Some("memory33".to_owned());
    let error = taken_from(&machine, "dax0.0").unwrap_err();
    assert_eq!(
        (error.kind(), error.raw_os_error()),
        (ErrorKind::Refused, None)
    );
    assert_eq!(machine.driver("dax0.0").as_deref(), Some("kmem"));
}

#[test]
fn a_block_that_comes_back_meanwhile_stops_the_unbinding() {
    let machine = FakeMachine::new(&[Some("kmem")]);
    *machine.meddled.borrow_mut() = Some("memory33".to_owned());
    let error = taken_from(&machine, "dax0.0").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(!machine.is_lost.get());
    assert_eq!(machine.driver("dax0.0").as_deref(), Some("kmem"));
    assert!(
        machine
            .blocks()
            .iter()
            .all(|block| block.contains(":online:"))
    );
}

#[test]
fn when_a_later_device_refuses_the_earlier_ones_are_given_back() {
    let machine = FakeMachine::new(&[Some("device_dax"), Some("kmem")]);
    *machine.refusing.borrow_mut() = Some("memory36".to_owned());
    let error = taken_from(&machine, "0x100000000-0x130000000").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert_eq!(machine.driver("dax0.0").as_deref(), Some("device_dax"));
    assert_eq!(machine.driver("dax1.0").as_deref(), Some("kmem"));
    assert_eq!(machine.blocks(), ["36:online:Movable", "37:online:Movable"]);
}

#[test]
fn an_open_dax_device_is_left_alone() {
    let machine = FakeMachine::new(&[Some("device_dax")]);
    machine.put("/proc/71/comm", "fio\n");
    machine.put("/proc/72/comm", "python3\n");
    machine.put(
        "/proc/72/maps",
        "7f00-8f00 rw-s 00000000 00:06 341  /dev/dax0.0\n",
    );
    fs::create_dir_all(machine.path("/proc/71/fd")).unwrap();
    symlink("/dev/dax0.0", machine.path("/proc/71/fd/3")).unwrap();
    let error = taken_from(&machine, "dax0.0").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert_eq!(
        error.to_string(),
        "/dev/dax0.0 is open in process 71 (fio), process 72 (python3)"
    );
    assert_eq!(*machine.log.borrow(), [""; 0]);
}

#[test]
fn an_unknown_driver_is_named_before_anything_changes() {
    let machine = FakeMachine::new(&[Some("fsdev_dax")]);
    let error = taken_from(&machine, "dax0.0").unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("dax0.0 is bound to fsdev_dax"),
        "{error}"
    );
    assert_eq!(*machine.log.borrow(), [""; 0]);
}

#[test]
fn a_range_that_cannot_be_attached_takes_nothing() {
    let machine = FakeMachine::new(&[Some("device_dax")]);
    let error = taken_from(&machine, "0x100001000+2M").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misaligned);
    assert_eq!(
        taken_from(&machine, "0x100000000+0").unwrap_err().kind(),
        ErrorKind::Empty
    );
    assert_eq!(*machine.log.borrow(), [""; 0]);
}

#[test]
fn an_unbound_device_needs_nothing() {
    let machine = FakeMachine::new(&[None]);
    let taken = taken_from(&machine, "dax0.0").unwrap();
    assert_eq!(taken.taken().count(), 0);
    assert_eq!(*machine.log.borrow(), [""; 0]);
}

#[test]
fn what_is_not_there_is_named() {
    let machine = FakeMachine::new(&[None]);
    for source in ["dax7.0", "hmem.7"] {
        let error = taken_from(&machine, source).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(
            error.to_string(),
            format!("there is no dax device or region {source}")
        );
    }
}

#[test]
fn the_survey_tells_who_has_what() {
    let machine = FakeMachine::new(&[Some("kmem"), None]);
    let found = survey::survey(&machine).unwrap();
    let owners: Vec<_> = found
        .iter()
        .flat_map(|soft| &soft.parts)
        .map(|part| &part.owner)
        .collect();
    let kmem = Owner::Dax {
        device: "dax0.0".to_owned(),
        driver: DaxDriver::Kmem,
    };
    assert_eq!(owners, [&kmem, &Owner::Free]);
    assert_eq!(survey::candidates(&found).len(), 2);
    assert_eq!(
        survey::free(&found),
        ["0x120000000-0x130000000".parse().unwrap()]
    );
    let error = survey::only(survey::candidates(&found)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Ambiguous);
    assert!(
        error
            .to_string()
            .contains("0x100000000-0x110000000 (256 MiB)"),
        "{error}"
    );
}

#[test]
fn an_attached_part_is_no_candidate() {
    let machine = FakeMachine::new(&[None]);
    machine.put(
        "/proc/iomem",
        "100000000-10fffffff : Soft Reserved\n  100000000-107ffffff : cohmem0\n  \
         10c000000-10fffffff : other driver\n",
    );
    let found = survey::survey(&machine).unwrap();
    let owners: Vec<_> = found[0]
        .parts
        .iter()
        .map(|part| part.owner.clone())
        .collect();
    assert_eq!(
        owners,
        [
            Owner::Cohmem,
            Owner::Free,
            Owner::Other("other driver".to_owned())
        ]
    );
    let only = survey::only(survey::candidates(&found)).unwrap();
    assert_eq!(only.to_string(), "0x108000000-0x10c000000");
}

#[test]
fn a_kernel_that_hides_soft_reserved_ranges_still_shows_its_dax_devices() {
    let machine = FakeMachine::new(&[Some("device_dax")]);
    machine.put("/proc/iomem", "100000000-10fffffff : dax0.0\n");
    let found = survey::survey(&machine).unwrap();
    assert_eq!(found.len(), 1);
    assert!(matches!(found[0].parts[0].owner, Owner::Dax { .. }));
}

#[test]
fn what_the_kernel_hides_the_driver_tells() {
    let machine = FakeMachine::new(&[None]);
    machine.put(
        "/proc/iomem",
        "1000-bfffffff : System RAM\n100000000-107ffffff : cohmem\n",
    );
    let found = survey::survey(&machine).unwrap();
    // Only what the dax device owns.
    assert_eq!(found.len(), 1);
    let ranges = ["0x100000000+256M", "0x200000000+1G"].map(|text| text.parse().unwrap());
    *machine.told.borrow_mut() = ranges.to_vec();
    let found = survey::survey(&machine).unwrap();
    assert_eq!(
        found.iter().map(|soft| soft.range).collect::<Vec<_>>(),
        ranges
    );
    let owners: Vec<_> = found[0].parts.iter().map(|part| &part.owner).collect();
    assert_eq!(owners, [&Owner::Cohmem, &Owner::Free]);
    let wanted = ["0x108000000+128M", "0x200000000+1G"].map(|text| text.parse().unwrap());
    assert_eq!(survey::candidates(&found), wanted);
}

#[test]
fn a_record_is_kept_until_it_is_forgotten() {
    let machine = FakeMachine::new(&[Some("kmem")]);
    let taken = taken_from(&machine, "dax0.0").unwrap();
    let directory = machine.path("/run/cohmem");
    assert_eq!(record::load(&directory, 3).unwrap(), None);
    record::save(&directory, 3, &taken).unwrap();
    assert_eq!(record::load(&directory, 3).unwrap().as_ref(), Some(&taken));
    record::remove(&directory, 3).unwrap();
    record::remove(&directory, 3).unwrap();
    assert_eq!(record::load(&directory, 3).unwrap(), None);
    fs::write(directory.join("device3.json"), "{").unwrap();
    assert!(
        record::load(&directory, 3)
            .unwrap_err()
            .to_string()
            .contains("device3.json")
    );
}
