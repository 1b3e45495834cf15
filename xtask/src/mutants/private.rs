//! The mutants of private memory and exclusive access, which only the debug kernel has.

use super::{Mutant, Test};

const fn private_test(name: &'static str) -> Test {
    Test::DebugGuest {
        stage: "dmirror",
        name,
    }
}

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "touch_leaves_private_memory",
        guards: "private memory: a touch brings the page home",
        changes: &[(
            "kernel/sys/src/private.rs",
            "        batch.commit();\n",
            "        return Err(Errno::EIO);\n",
        )],
        test: private_test("a_touch_brings_private_memory_home"),
        is_in_ci: false,
    },
    Mutant {
        name: "touch_brings_no_content",
        guards: "private memory: the content comes with the page",
        changes: &[(
            "kernel/sys/src/private.rs",
            "if batch.copy(0).is_err()",
            "if false",
        )],
        test: private_test("a_touch_brings_private_memory_home"),
        is_in_ci: false,
    },
    Mutant {
        name: "device_without_its_own_memory",
        guards: "private memory: the device uses its own as it is",
        changes: &[(
            "kernel/sys/src/mirror.rs",
            "dev_private_owner: self.owner.map_or",
            "dev_private_owner: self.owner.filter(|_| false).map_or",
        )],
        test: private_test("a_touch_brings_private_memory_home"),
        is_in_ci: false,
    },
    Mutant {
        name: "private_memory_is_not_evicted",
        guards: "private memory: the last file takes all of it home",
        changes: &[(
            "kernel/dmirror/src/device.rs",
            "has_moved |= migrate::carry_home(&mut batch, nr_frames, self, &mut stock) != 0;",
            "has_moved |= migrate::carry_home(&mut batch, 0, self, &mut stock) != 0;",
        )],
        test: private_test("private_memory_comes_home_when_it_is_given_up"),
        is_in_ci: false,
    },
    Mutant {
        name: "private_memory_is_not_selected",
        guards: "private memory: a command takes it home",
        changes: &[(
            "kernel/sys/src/batch.rs",
            "                    | bindings::MIGRATE_VMA_SELECT_DEVICE_PRIVATE,",
            "                    | 0,",
        )],
        test: private_test("private_memory_goes_and_comes_by_command"),
        is_in_ci: false,
    },
    Mutant {
        name: "touch_leaves_exclusive_access",
        guards: "exclusive access: the processor's next access ends it",
        changes: &[(
            "kernel/sys/helpers/mirror.c",
            "range->event == MMU_NOTIFY_EXCLUSIVE && range->owner == owner",
            "range->event == MMU_NOTIFY_EXCLUSIVE && owner",
        )],
        test: private_test("a_touch_ends_exclusive_access"),
        is_in_ci: false,
    },
    Mutant {
        name: "page_is_taken_as_it_was",
        guards: "exclusive access: a page that had to be copied or fetched first is tried again",
        changes: &[(
            "kernel/sys/src/mirror/exclusive.rs",
            "self.walk(page, Request::Write, room, |_address, _entry| {})?;",
            "self.walk(page, Request::Nothing, room, |_address, _entry| {})?;",
        )],
        test: private_test("exclusive_access_can_be_taken_of_any_page"),
        is_in_ci: false,
    },
    Mutant {
        name: "exclusive_access_of_device_memory",
        guards: "exclusive access: coherent memory, which could not be taken home then, is refused",
        changes: &[(
            "kernel/sys/src/mirror/exclusive.rs",
            "        if is_device {\n",
            "        if false {\n",
        )],
        test: private_test("exclusive_access_is_refused"),
        is_in_ci: false,
    },
];
