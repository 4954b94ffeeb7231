use std::{error, fmt, io};

/// What could not be set up or exchanged, and why. Its `Debug` text is its `Display` text, so that it
/// is readable if `main` returns it.
pub struct Error {
    step: String,
    source: Box<dyn error::Error + Send + Sync>,
}

impl Error {
    pub(crate) fn new(
        step: impl fmt::Display,
        source: impl Into<Box<dyn error::Error + Send + Sync>>,
    ) -> Self {
        Self { step: step.to_string(), source: source.into() }
    }

    /// Whether the answer did not arrive in time.
    pub fn is_timeout(&self) -> bool {
        matches!(self.io_kind(), Some(io::ErrorKind::TimedOut))
    }

    /// The kind of the I/O error in it, if there is one: how a connection failed.
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        self.source.downcast_ref::<io::Error>().map(io::Error::kind)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step, self.source)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        Some(&*self.source)
    }
}

impl From<netns_link::Error> for Error {
    fn from(error: netns_link::Error) -> Self {
        Self::new("testbed", error)
    }
}
