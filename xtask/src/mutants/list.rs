//! The mutants.

use super::{Mutant, Test};

pub(super) const MUTANTS: &[Mutant] = &[];
