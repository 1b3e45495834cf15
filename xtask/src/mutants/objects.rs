//! The mutants of jobs and run instances.

use super::{Mutant, Test, list::driver_test};

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "only_the_user_pays",
        guards: "quota objects: a job and a run instance must allow it, too",
        changes: &[(
            "kernel/core/src/payers.rs",
            "Self((self.0 << LANE_BITS) | account.lane())",
            "Self(self.0 | (0 * account.lane()))",
        )],
        test: driver_test("user_job_and_run_must_all_allow"),
        is_in_ci: true,
    },
    Mutant {
        name: "refused_charge_is_kept",
        guards: "quota objects: nobody is charged for what another did not allow",
        changes: &[(
            "kernel/core/src/accounts.rs",
            "self.uncharge_one(earlier, nr_granted.saturating_sub(nr_here));",
            "self.uncharge_one(earlier, 0 * nr_granted.saturating_sub(nr_here));",
        )],
        test: Test::Host {
            package: "cohmem-kcore",
            target: "lib",
            name: "what_one_of_the_payers_does_not_allow_is_taken_back_from_the_others",
        },
        is_in_ci: false,
    },
    Mutant {
        name: "room_is_trusted",
        guards: "quota objects: room that was seen is asked for again when it is taken",
        changes: &[(
            "kernel/core/src/accounts.rs",
            "nr_granted = limit.saturating_sub(nr_charged).min(max);",
            "nr_granted = limit.min(max);",
        )],
        test: Test::Host {
            package: "cohmem-kcore",
            target: "lib",
            name: "what_one_of_the_payers_does_not_allow_is_taken_back_from_the_others",
        },
        is_in_ci: false,
    },
    Mutant {
        name: "only_the_first_payer_is_paid_back",
        guards: "quota objects: a freed frame is charged to none of its payers",
        changes: &[(
            "kernel/core/src/accounts.rs",
            "for account in payers.iter() {\n            self.uncharge_one(account, nr_frames);",
            "for account in payers.iter().take(1) {\n            self.uncharge_one(account, nr_frames);",
        )],
        test: driver_test("user_job_and_run_must_all_allow"),
        is_in_ci: false,
    },
    Mutant {
        name: "job_is_its_own_group_only",
        guards: "quota objects: a job is the group with all below it",
        changes: &[(
            "kernel/core/src/accounts.rs",
            "(0..).map_while(|level| group.number_at(level))",
            "(0..).map_while(|level| group.number_at(level)).last()",
        )],
        test: driver_test("a_job_is_the_group_with_all_below_it"),
        is_in_ci: true,
    },
    Mutant {
        name: "cleared_job_still_pays",
        guards: "quota objects: a group that is no job any more gets nothing charged",
        changes: &[(
            "kernel/core/src/accounts.rs",
            "account.filter(|&job| self.limit(job) != Limit::Inherited)",
            "account",
        )],
        test: driver_test("a_job_that_is_none_any_more_keeps_its_frames_and_gets_none"),
        is_in_ci: false,
    },
    Mutant {
        name: "outermost_job_is_forgotten",
        guards: "quota objects: a task in more jobs than a frame can name gets no frame",
        changes: &[(
            "kernel/core/src/payers.rs",
            "let has_room = self.0 >> (LANE_BITS * (NR_LANES - 1)) == 0;",
            "let has_room = true;",
        )],
        test: driver_test("a_task_in_more_jobs_than_a_frame_can_name_gets_none"),
        is_in_ci: false,
    },
    Mutant {
        name: "run_outlives_its_file",
        guards: "quota objects: a run instance ends with its file",
        changes: &[(
            "kernel/core/src/driver/quota.rs",
            "accounts.set_limit(Whose::One(Holder::Run(run)), Limit::Inherited);",
            "accounts.set_limit(Whose::One(Holder::Run(run)), Limit::Unlimited);",
        )],
        test: driver_test("a_run_instance_ends_with_its_file_and_its_frames_stay_charged"),
        is_in_ci: false,
    },
    Mutant {
        name: "a_user_takes_every_run",
        guards: "quota objects: a user has so many run instances",
        changes: &[(
            "kernel/core/src/accounts.rs",
            "            return Err(Errno::EDQUOT);",
            "            {}",
        )],
        test: driver_test("a_user_cannot_take_every_run_instance"),
        is_in_ci: false,
    },
    Mutant {
        name: "anyone_makes_jobs",
        guards: "quota objects: a job's limit needs CAP_SYS_ADMIN",
        changes: &[(
            "kernel/core/src/driver/quota.rs",
            "if !self.host.is_privileged(Privilege::Administrate) {",
            "if false && !self.host.is_privileged(Privilege::Administrate) {",
        )],
        test: driver_test("jobs_runs_and_their_list_refuse_what_the_header_says"),
        is_in_ci: false,
    },
    Mutant {
        name: "file_is_closed_silently",
        guards: "quota objects: closing the file ends the run instance on the kernel, too",
        changes: &[(
            "kernel/module/src/sys/chardev.rs",
            "entry::with_driver(|driver| driver.close(&node));",
            "drop(node);",
        )],
        test: Test::Guest {
            stage: "guest",
            name: "objects::a_run_instance_is_its_file_whoever_has_it",
        },
        is_in_ci: false,
    },
];
