//! Races that a test build of the module forces open.

use crate::Test;

pub(crate) const TESTS: &[Test] = &[];
