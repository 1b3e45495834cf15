//! The mutants: each takes out one guard or one point of the contract.

use super::{Mutant, Test};

/// A host test of the driver's logic.
pub(super) const fn driver_test(name: &'static str) -> Test {
    Test::Host {
        package: "cohmem-kcore",
        target: "driver",
        name,
    }
}

/// A test of the command as it is run.
const fn command_test(name: &'static str) -> Test {
    Test::Host {
        package: "cohmem-cli",
        target: "command",
        name,
    }
}

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "strict_count",
        guards: "C1, C2: a late writer on the way home",
        changes: &[(
            "kernel/core/src/window.rs",
            "if facts.refs != 1 =>",
            "if facts.refs > 2 =>",
        )],
        test: driver_test("a_late_write_is_not_lost_in_an_eviction"),
        is_in_ci: true,
    },
    Mutant {
        name: "strict_count_in_the_lab",
        guards: "C1, C2: the same on the kernel",
        changes: &[(
            "kernel/core/src/window.rs",
            "if facts.refs != 1 =>",
            "if facts.refs > 2 =>",
        )],
        test: Test::Guest {
            stage: "hooks",
            name: "a_late_write_is_not_lost_on_the_way_home",
        },
        is_in_ci: true,
    },
    Mutant {
        name: "reverse_mapping_is_not_kept",
        guards: "an exit while an eviction has the pages",
        changes: &[(
            "kernel/sys/src/batch.rs",
            "Collected::Frames { _spaces: spaces }",
            "Collected::Frames { _spaces: { drop(spaces); HeldSpaces::new() } }",
        )],
        test: Test::Guest {
            stage: "hooks",
            name: "an_exit_while_an_eviction_has_the_pages",
        },
        is_in_ci: true,
    },
    Mutant {
        name: "a_lock_not_taken_is_given_back",
        guards: "an eviction from a process that changes its mappings",
        changes: &[(
            "kernel/sys/src/rmap.rs",
            "is_locked.then(|| Self { mm })",
            "is_locked.then_some(Self { mm })",
        )],
        test: Test::Guest {
            stage: "guest",
            name: "with_a_process_that_changes_its_mappings",
        },
        is_in_ci: false,
    },
    Mutant {
        name: "gate_before_the_address_space",
        guards: "a stuck process keeps no device from being detached",
        changes: &[(
            "kernel/core/src/query.rs",
            "let mut space = self.space.lock()?;\n        let table = self.gate.read();",
            "let table = self.gate.read();\n        let mut space = self.space.lock()?;",
        )],
        test: driver_test("query_refuses_what_the_header_says"),
        is_in_ci: true,
    },
    Mutant {
        name: "ksm_after_collecting",
        guards: "a page merged by KSM meanwhile",
        changes: &[(
            "kernel/core/src/window.rs",
            "if facts.is_ksm {",
            "if false {",
        )],
        test: driver_test("a_page_that_ksm_merged_meanwhile_stays"),
        is_in_ci: true,
    },
    Mutant {
        name: "ksm_at_all_in_the_lab",
        guards: "KSM pages stay",
        changes: &[
            (
                "kernel/core/src/window.rs",
                "if facts.is_ksm {",
                "if false {",
            ),
            (
                "kernel/core/src/classify.rs",
                "} else if facts.is_ksm {",
                "} else if false {",
            ),
        ],
        test: Test::Guest {
            stage: "guest",
            name: "reasons::merged_pages_stay",
        },
        is_in_ci: false,
    },
    Mutant {
        name: "poison_after_collecting",
        guards: "a page poisoned meanwhile",
        changes: &[(
            "kernel/core/src/window.rs",
            "if facts.is_poisoned {",
            "if false {",
        )],
        test: driver_test("a_page_poisoned_meanwhile_is_not_copied"),
        is_in_ci: false,
    },
    Mutant {
        name: "unreadable_is_moved",
        guards: "C2: a copy that failed",
        changes: &[(
            "kernel/core/src/window.rs",
            "            batch.unassign(index);\n            Fate::Lost",
            "            Fate::Moved",
        )],
        test: driver_test("a_frame_found_lost_by_a_copy_is_reported"),
        is_in_ci: true,
    },
    Mutant {
        name: "no_zeroing",
        guards: "C5: a filled hole",
        changes: &[(
            "kernel/core/src/window.rs",
            "                        batch.zero(index);\n",
            "",
        )],
        test: driver_test("a_filled_hole_shows_nothing_of_the_frame_s_last_owner"),
        is_in_ci: true,
    },
    Mutant {
        name: "no_zeroing_in_the_lab",
        guards: "C5: the same on the kernel",
        changes: &[(
            "kernel/core/src/window.rs",
            "                        batch.zero(index);\n",
            "",
        )],
        test: Test::Guest {
            stage: "guest",
            name: "isolation::a_new_owner_sees_zeros",
        },
        is_in_ci: false,
    },
    Mutant {
        name: "commit_is_believed",
        guards: "C6: a page that was busy after all",
        changes: &[(
            "kernel/core/src/window.rs",
            "&& !batch.is_moved(index)",
            "&& false",
        )],
        test: driver_test("a_hole_that_was_touched_meanwhile_keeps_what_was_written"),
        is_in_ci: false,
    },
    Mutant {
        name: "frames_not_given_back",
        guards: "C2: frames of pages that stayed",
        changes: &[(
            "kernel/core/src/window.rs",
            "supply.give_back(device.ledger())",
            "Ok(())",
        )],
        test: driver_test("a_page_that_ksm_merged_meanwhile_stays"),
        is_in_ci: false,
    },
    Mutant {
        name: "draining_is_open",
        guards: "C7: nothing moves to a draining device",
        changes: &[(
            "kernel/core/src/migrate.rs",
            "&& !table.is_open(device)",
            "&& false",
        )],
        test: driver_test("while_it_drains_others_are_told_so"),
        is_in_ci: true,
    },
    Mutant {
        name: "no_preflight",
        guards: "C7: too little memory is told first",
        changes: &[(
            "kernel/core/src/drain.rs",
            "if spare_pages(host) < nr_allocated",
            "if false",
        )],
        test: driver_test("too_little_memory_is_told_before_anything_moves"),
        is_in_ci: true,
    },
    Mutant {
        name: "no_preflight_in_the_lab",
        guards: "C7: the same on the kernel",
        changes: &[(
            "kernel/core/src/drain.rs",
            "if spare_pages(host) < nr_allocated",
            "if false",
        )],
        test: Test::Guest {
            stage: "guest",
            name: "detach::with_too_little_system_memory",
        },
        is_in_ci: false,
    },
    Mutant {
        name: "no_drain_of_processors",
        guards: "C7: references in LRU batches",
        changes: &[(
            "kernel/core/src/drain.rs",
            "            self.host.drain_processors();\n",
            "",
        )],
        test: driver_test("references_of_lru_batches_are_drained"),
        is_in_ci: false,
    },
    Mutant {
        name: "chunk_is_not_kept",
        guards: "C7: chunks with mapped poison stay",
        changes: &[(
            "kernel/core/src/poison.rs",
            "    ledger.keep_chunk_of(frame);\n",
            "",
        )],
        test: driver_test("a_chunk_that_held_mapped_poison_stays_claimed_and_is_listed"),
        is_in_ci: true,
    },
    Mutant {
        name: "poison_is_not_marked",
        guards: "C2: the owner is told of the loss",
        changes: &[(
            "kernel/core/src/poison.rs",
            "    chunk.mark_poisoned(frame);\n",
            "",
        )],
        test: driver_test("a_frame_that_failed_in_use_sends_its_owners_sigbus_and_nobody_else"),
        is_in_ci: false,
    },
    Mutant {
        name: "poison_is_handed_out",
        guards: "a poisoned frame leaves the ledger",
        changes: &[(
            "kernel/core/src/ledger.rs",
            "        if is_poisoned {",
            "        if false {",
        )],
        test: driver_test("a_frame_that_the_kernel_itself_marked_is_not_handed_out_again"),
        is_in_ci: false,
    },
    Mutant {
        name: "stale_files_work",
        guards: "a file names one attachment",
        changes: &[(
            "kernel/core/src/driver.rs",
            ".filter(|device| device.id == id)",
            ".filter(|device| device.id.number == id.number)",
        )],
        test: driver_test("the_name_of_an_earlier_attachment_opens_nothing"),
        is_in_ci: true,
    },
    Mutant {
        name: "shared_pages_move",
        guards: "shared pages move when asked",
        changes: &[(
            "kernel/core/src/classify.rs",
            "&& (is_huge || !facts.is_large) && !moves_shared",
            "&& false",
        )],
        test: driver_test("shared_pages_move_only_with_flag_and_privilege_and_for_everybody"),
        is_in_ci: false,
    },
    Mutant {
        name: "anyone_moves_shared",
        guards: "C10: CAP_SYS_NICE for shared pages",
        changes: &[(
            "kernel/core/src/request.rs",
            "if moves_shared && !host.is_privileged(Privilege::MoveShared)",
            "if false && !host.is_privileged(Privilege::MoveShared)",
        )],
        test: driver_test("shared_pages_move_only_with_flag_and_privilege_and_for_everybody"),
        is_in_ci: false,
    },
    Mutant {
        name: "anyone_moves_shared_in_the_lab",
        guards: "C10: the same on the kernel",
        changes: &[(
            "kernel/core/src/request.rs",
            "if moves_shared && !host.is_privileged(Privilege::MoveShared)",
            "if false && !host.is_privileged(Privilege::MoveShared)",
        )],
        test: Test::Guest {
            stage: "guest",
            name: "bad_input::an_ordinary_user_is_refused",
        },
        is_in_ci: false,
    },
    Mutant {
        name: "reserved_fields",
        guards: "C10: reserved fields are zero",
        changes: &[(
            "kernel/core/src/request.rs",
            "if fields.iter().all(|&field| field == 0)",
            "if fields.iter().all(|&field| field < 2)",
        )],
        test: driver_test("version_list_and_info_refuse_reserved_fields"),
        is_in_ci: false,
    },
    Mutant {
        name: "unknown_flags",
        guards: "C10: unknown flags",
        changes: &[(
            "kernel/core/src/request.rs",
            "if flags & !known == 0",
            "if flags & !known < 1 << 31",
        )],
        test: driver_test("attach_refuses_what_the_header_says"),
        is_in_ci: false,
    },
    Mutant {
        name: "misaligned_ranges",
        guards: "C10: misaligned ranges",
        changes: &[(
            "kernel/core/src/request.rs",
            "if !start.is_multiple_of(align) || !length.is_multiple_of(align)",
            "if !length.is_multiple_of(align)",
        )],
        test: driver_test("migrate_refuses_what_the_header_says"),
        is_in_ci: false,
    },
    Mutant {
        name: "kernel_addresses",
        guards: "C10: addresses above the user's",
        changes: &[(
            "kernel/core/src/request.rs",
            "if end > host.user_end()",
            "if end > host.user_end().saturating_mul(2)",
        )],
        test: driver_test("migrate_refuses_what_the_header_says"),
        is_in_ci: false,
    },
    Mutant {
        name: "reasons_not_checked",
        guards: "C10: the array of reasons is checked first",
        changes: &[(
            "kernel/core/src/migrate.rs",
            "        self.clear_reasons()?;\n",
            "",
        )],
        test: driver_test("a_list_of_reasons_that_is_too_short_is_found_before_anything_moves"),
        is_in_ci: false,
    },
    Mutant {
        name: "executable_moves",
        guards: "executable mappings stay",
        changes: &[(
            "kernel/core/src/classify.rs",
            "if vma.is_executable && direction == Direction::ToDevice && !moves_executable",
            "if false && vma.is_executable && direction == Direction::ToDevice && !moves_executable",
        )],
        test: driver_test("each_page_that_stays_has_its_reason"),
        is_in_ci: false,
    },
    Mutant {
        name: "large_folio_reason",
        guards: "C6: partly mapped large folios are told",
        changes: &[(
            "kernel/core/src/classify.rs",
            "} else if facts.is_large && !is_huge && !moves_partly_mapped {",
            "} else if false && !is_huge && !moves_partly_mapped {",
        )],
        test: Test::Guest {
            stage: "guest",
            name: "reasons::a_partly_mapped_large_folio_stays",
        },
        is_in_ci: false,
    },
    Mutant {
        name: "pinned_reason",
        guards: "C6: pinned pages are told",
        changes: &[(
            "kernel/core/src/classify.rs",
            "    } else if facts.is_pinned {",
            "    } else if false {",
        )],
        test: Test::Guest {
            stage: "guest",
            name: "reasons::pinned_pages_stay",
        },
        is_in_ci: false,
    },
    Mutant {
        name: "swapped_reason",
        guards: "C6: swapped is not untouched",
        changes: &[
            (
                "kernel/core/src/pass.rs",
                "            tells_swapped: takes_absent && self.has_swapped,",
                "            tells_swapped: false,",
            ),
            (
                "kernel/core/src/pass.rs",
                "} else if fills_holes || self.has_swapped {",
                "} else if fills_holes {",
            ),
        ],
        test: driver_test("holes_are_told_from_swapped_pages_and_filled_only_when_asked_for"),
        is_in_ci: false,
    },
    Mutant {
        name: "userfault_holes",
        guards: "C6: holes of a userfaultfd",
        changes: &[(
            "kernel/core/src/pass.rs",
            "if fills_holes && self.vma.awaits_userfault {",
            "if false {",
        )],
        test: driver_test("each_page_that_stays_has_its_reason"),
        is_in_ci: false,
    },
    Mutant {
        name: "hibernation_stays_open",
        guards: "hibernation closes the devices",
        changes: &[(
            "kernel/core/src/driver.rs",
            "            table.is_closed = true;\n",
            "",
        )],
        test: driver_test("hibernation_takes_all_home_and_keeps_devices_closed_until_it_is_over"),
        is_in_ci: false,
    },
    Mutant {
        name: "two_evictions",
        guards: "C7: one eviction at a time",
        changes: &[(
            "kernel/core/src/ledger.rs",
            "(!was_evicting).then(|| ",
            "Some(was_evicting).map(|_was| ",
        )],
        test: driver_test("while_it_drains_others_are_told_so"),
        is_in_ci: true,
    },
    Mutant {
        name: "a_refused_eviction_ends_the_other",
        guards: "C7: one eviction at a time, also after a refusal",
        changes: &[(
            "kernel/core/src/ledger.rs",
            "(!was_evicting).then(|| EvictionGuard",
            "(!was_evicting).then_some(EvictionGuard",
        )],
        test: driver_test("while_it_drains_others_are_told_so"),
        is_in_ci: true,
    },
    Mutant {
        name: "state_is_not_restored",
        guards: "C7: a refused detach leaves the device online",
        changes: &[(
            "kernel/core/src/driver.rs",
            "                self.set_state(id, State::Online)?;\n",
            "",
        )],
        test: driver_test("a_held_frame_makes_it_busy_and_is_named_and_all_works_on"),
        is_in_ci: true,
    },
    Mutant {
        name: "double_free",
        guards: "C4: a frame has one owner",
        changes: &[(
            "crates/frames/src/pool.rs",
            "        if !before.is_held {\n            return Err(FreeError::NotAllocated { index: frame });\n        }\n        if before.is_withdrawn {",
            "        if before.is_withdrawn {",
        )],
        test: Test::Host {
            package: "cohmem-frames",
            target: "pool",
            name: "a_frame_is_freed_once",
        },
        is_in_ci: false,
    },
    Mutant {
        name: "ledger_with_a_plain_lock",
        guards: "a frame freed in a hard interrupt during an allocation",
        changes: &[
            (
                "kernel/core/src/ledger.rs",
                "/// The frames of one device.\n",
                "static LOCK: core::sync::atomic::AtomicBool = core::sync::atomic::AtomicBool::new(false);\n\n/// The frames of one device.\n",
            ),
            (
                "kernel/core/src/ledger.rs",
                "        host.reached(Point::Allocating);\n        let nr_granted = self.accounts.charge(payer, max);\n",
                "        let nr_granted = self.accounts.charge(payer, max);\n        while LOCK.swap(true, core::sync::atomic::Ordering::Acquire) {}\n        host.reached(Point::Allocating);\n        LOCK.store(false, core::sync::atomic::Ordering::Release);\n",
            ),
            (
                "kernel/core/src/ledger.rs",
                "        self.pool.free(frame)?;\n",
                "        while LOCK.swap(true, core::sync::atomic::Ordering::Acquire) {}\n        let freed = self.pool.free(frame);\n        LOCK.store(false, core::sync::atomic::Ordering::Release);\n        freed?;\n",
            ),
        ],
        test: Test::Guest {
            stage: "hooks",
            name: "a_frame_freed_by_an_interrupt_during_an_allocation",
        },
        is_in_ci: false,
    },
    Mutant {
        name: "no_memory_failure_operation",
        guards: "poison in the lab",
        changes: &[(
            "kernel/sys/helpers/pagemap.c",
            "\treturn cohmem_memory_failed(pagemap, pfn, nr_pages);",
            "\treturn -95;",
        )],
        test: Test::Guest {
            stage: "poison",
            name: "a_poisoned_page_is_told_and_contained",
        },
        is_in_ci: true,
    },
    Mutant {
        name: "stale_mlock_count",
        guards: "C9: mlock accounting",
        changes: &[(
            "kernel/sys/src/page.rs",
            "        if is_mlocked {",
            "        if false && is_mlocked {",
        )],
        test: Test::Guest {
            stage: "guest",
            name: "lifecycle::locked_memory_stays_accounted",
        },
        is_in_ci: false,
    },
    Mutant {
        name: "module_goes_with_devices",
        guards: "unloading is refused while attached",
        changes: &[(
            "kernel/sys/src/pagemap.rs",
            "        module.leave();",
            "        if false {\n            module.leave();\n        }",
        )],
        test: Test::Guest {
            stage: "guest",
            name: "module::unloading_is_refused_while_attached",
        },
        is_in_ci: false,
    },
    Mutant {
        name: "any_file_is_authority",
        guards: "C10: only pagemap and mem are authority",
        changes: &[(
            "kernel/sys/src/process.rs",
            ".any(|known| known.load(Relaxed) == operations)",
            ".any(|known| known.load(Relaxed) == operations || !operations.is_null())",
        )],
        test: Test::Guest {
            stage: "guest",
            name: "bad_input::process_files",
        },
        is_in_ci: false,
    },
    Mutant {
        name: "gone_process_loses_a_reference",
        guards: "a process that is gone is asked for more than once",
        changes: &[(
            "kernel/sys/src/process.rs",
            "is_used.then(|| Self { mm })",
            "is_used.then_some(Self { mm })",
        )],
        test: Test::Guest {
            stage: "guest",
            name: "bad_input::process_files",
        },
        is_in_ci: false,
    },
    Mutant {
        name: "shared_large_folio_is_moved",
        guards: "a large folio of several processes, mapped page by page",
        changes: &[(
            "kernel/core/src/classify.rs",
            "        facts.is_shared\n",
            "        false\n",
        )],
        test: driver_test("each_page_that_stays_has_its_reason"),
        is_in_ci: true,
    },
    Mutant {
        name: "few_swapped_pages_are_holes",
        guards: "C6: a few swapped pages",
        changes: &[(
            "kernel/sys/helpers/vma.c",
            "get_mm_counter(mm, MM_SWAPENTS) || get_mm_counter_sum(mm, MM_SWAPENTS)",
            "get_mm_counter(mm, MM_SWAPENTS)",
        )],
        test: Test::Guest {
            stage: "guest",
            name: "reasons::a_few_swapped_pages_are_told_from_holes",
        },
        is_in_ci: false,
    },
    Mutant {
        name: "mirror_that_remembers",
        guards: "I15: entries are forgotten before the kernel takes the page",
        changes: &[(
            "kernel/sys/src/mirror.rs",
            "    table.forget(start, end);\n",
            "    let _kept = (&mut table, start, end);\n",
        )],
        test: Test::Guest {
            stage: "dmirror",
            name: "files_of_a_process_follow_each_other",
        },
        is_in_ci: false,
    },
    Mutant {
        name: "mirror_that_writes_shared_pages",
        guards: "I15: the device may write only what the process may",
        changes: &[(
            "kernel/sys/src/mirror.rs",
            "if entry.is_writable() { WRITABLE } else { 0 }",
            "if entry.is_present() { WRITABLE } else { 0 }",
        )],
        test: Test::Guest {
            stage: "dmirror",
            name: "the_device_writes_what_fork_shares",
        },
        is_in_ci: false,
    },
    Mutant {
        name: "test_device_that_keeps_its_memory",
        guards: "the test device's memory is given up with the last file",
        changes: &[(
            "kernel/dmirror/src/device.rs",
            "        if memory.nr_files == 0 {",
            "        if false {",
        )],
        test: Test::Guest {
            stage: "dmirror",
            name: "the_last_file_gives_the_memory_up",
        },
        is_in_ci: false,
    },
    Mutant {
        name: "empty_file_needs_the_module",
        guards: "the boot-time unit on a machine that attaches nothing",
        changes: &[(
            "crates/cli/src/cmd/attach.rs",
            "lines.as_ref().is_some_and(Vec::is_empty)",
            "lines.as_ref().is_some_and(|_| false)",
        )],
        test: command_test("a_file_that_names_nothing_needs_no_module"),
        is_in_ci: false,
    },
    Mutant {
        name: "command_without_a_page",
        guards: "the manual is complete",
        changes: &[(
            "crates/cli/src/manual.rs",
            "command.get_name() != \"help\" &&",
            "command.get_name() != \"doctor\" &&",
        )],
        test: command_test("every_command_has_a_manual_page"),
        is_in_ci: false,
    },
];
