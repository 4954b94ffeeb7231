//! What plans that follow each other know of each other.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{guard::Guard, leaving::Leaving};

/// What was taken away and what is held back, and what is being drained.
///
/// A plan shares the memory that it was made with: what others changed while it is applied is planned
/// again, and counts as well, even if the apply is dropped then.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory(Arc<Mutex<Known>>);

#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    pub(crate) guard: Guard,
    pub(crate) leaving: Leaving,
}

impl Memory {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy that goes its own way.
    pub(crate) fn fork(&self) -> Self {
        Self(Arc::new(Mutex::new(self.lock().clone())))
    }
}
