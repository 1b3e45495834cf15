//! The mutants of limits and charges.

use super::{Mutant, Test, list::driver_test};

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "limit_is_not_asked",
        guards: "quota: a limit is kept to the frame",
        changes: &[(
            "kernel/core/src/accounts.rs",
            "(Limit::Frames(nr_frames), _) => nr_frames,",
            "(Limit::Frames(nr_frames), _) => nr_frames.max(u64::MAX),",
        )],
        test: driver_test("a_user_at_the_limit_gets_no_further_frame"),
        is_in_ci: true,
    },
    Mutant {
        name: "charge_outlives_its_frame",
        guards: "quota: a frame that is freed is charged no longer",
        changes: &[(
            "kernel/core/src/ledger.rs",
            "            self.accounts.uncharge(payers, 1);",
            "            self.accounts.uncharge(payers, 0);",
        )],
        test: driver_test("a_user_at_the_limit_gets_no_further_frame"),
        is_in_ci: false,
    },
    Mutant {
        name: "grant_without_frames_is_kept",
        guards: "quota: what was granted and not there is not charged",
        changes: &[(
            "kernel/core/src/ledger.rs",
            ".uncharge(payers, nr_granted.saturating_sub(nr_taken));",
            ".uncharge(payers, 0 * nr_granted.saturating_sub(nr_taken));",
        )],
        test: driver_test("a_full_device_is_not_a_quota"),
        is_in_ci: false,
    },
    Mutant {
        name: "frames_have_no_owner",
        guards: "quota: the charge goes back to whom it was made",
        changes: &[(
            "kernel/core/src/ledger.rs",
            "        self.accounts.assign(run, payers);\n",
            "",
        )],
        test: driver_test("a_page_that_outlives_its_charger_stays_charged"),
        is_in_ci: true,
    },
    Mutant {
        name: "charged_account_is_given_away",
        guards: "quota: an account is reused only when nothing is charged to it",
        changes: &[(
            "kernel/core/src/accounts.rs",
            "self.charged(account) == 0 && self.limit",
            "self.limit",
        )],
        test: driver_test("an_account_is_another_user_s_once_it_is_empty"),
        is_in_ci: false,
    },
    Mutant {
        name: "limited_account_is_given_away",
        guards: "quota: an account is reused only when it has no limit of its own",
        changes: &[(
            "kernel/core/src/accounts.rs",
            "self.charged(account) == 0 && self.limit(account) == Limit::Inherited",
            "self.charged(account) == 0",
        )],
        test: driver_test("an_account_is_another_user_s_once_it_is_empty"),
        is_in_ci: false,
    },
    Mutant {
        name: "account_is_lost_between_windows",
        guards: "quota: an account taken away meanwhile is opened again",
        changes: &[(
            "kernel/core/src/migrate.rs",
            "Ok(()) => continue,\n                    Err(_later)",
            "Ok(()) => break,\n                    Err(_later)",
        )],
        test: driver_test("an_account_that_was_taken_away_between_windows_is_opened_again"),
        is_in_ci: false,
    },
    Mutant {
        name: "anyone_sets_limits",
        guards: "quota: a limit needs CAP_SYS_ADMIN",
        changes: &[(
            "kernel/core/src/driver/quota.rs",
            "if !self.host.is_privileged(Privilege::Administrate) {",
            "if false && !self.host.is_privileged(Privilege::Administrate) {",
        )],
        test: driver_test("quota_and_accounts_refuse_what_the_header_says"),
        is_in_ci: true,
    },
    Mutant {
        name: "effective_user_is_charged",
        guards: "quota: the real user is charged",
        changes: &[(
            "kernel/sys/helpers/process.c",
            "current_uid()",
            "current_euid()",
        )],
        test: Test::Guest {
            stage: "guest",
            name: "quota::who_asks_is_charged_whose_descriptor_it_may_be",
        },
        is_in_ci: false,
    },
];
