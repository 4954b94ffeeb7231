use std::{error, fmt, process};

/// The process that opened something.
///
/// A child of `fork` shares its parent's sockets and open files: each would receive answers to the
/// other's requests, and half of a file that both read. So only the process that opened one uses it.
///
/// Processes are distinguished by their number. A child in a new PID namespace that has the same
/// number there as its parent has outside is not noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner(u32);

impl Owner {
    /// The calling process.
    pub fn current() -> Self {
        Self(process::id())
    }

    /// Checks that the calling process is the owner.
    ///
    /// # Errors
    /// If another process is the owner.
    pub fn check(self) -> Result<(), OtherProcess> {
        if process::id() == self.0 { Ok(()) } else { Err(OtherProcess { opened_by: self.0 }) }
    }
}

/// Another process is the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct OtherProcess {
    /// The number of the process that opened it.
    pub opened_by: u32,
}

impl fmt::Display for OtherProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { opened_by } = self;
        write!(
            f,
            "process {opened_by} opened it, and this process is a fork of that one: the two \
             would receive each other's answers; open a new one in this process"
        )
    }
}

impl error::Error for OtherProcess {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_process_is_refused() {
        assert_eq!(Owner::current().check(), Ok(()));
        let parent = Owner(process::id().wrapping_add(1));
        let refused = parent.check().unwrap_err();
        assert_eq!(refused.opened_by, parent.0);
        assert!(refused.to_string().contains("fork"), "{refused}");
    }
}
