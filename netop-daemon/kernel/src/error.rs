//! What can go wrong, with enough said to find the place.

use std::fmt;
use std::io;

use nix::errno::Errno;

/// One operation that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {object} in namespace {namespace}: {detail}")]
pub struct Error {
    /// What was to be done: `replace route`.
    pub operation: &'static str,
    /// To what: `10.20.0.0/16 in table 254`.
    pub object: String,
    /// The network namespace, by path.
    pub namespace: String,
    /// What the kernel said.
    pub detail: String,
    source: io::Error,
}

impl Error {
    /// An error of one operation. `detail` is the kernel's own explanation where it gave one.
    pub(crate) fn new(
        operation: &'static str,
        object: impl Into<String>,
        namespace: impl fmt::Display,
        source: io::Error,
    ) -> Self {
        Self {
            operation,
            object: object.into(),
            namespace: namespace.to_string(),
            detail: source.to_string(),
            source,
        }
    }

    /// A short stable word for metrics, conditions and Events.
    pub fn reason(&self) -> &'static str {
        match self.errno() {
            Some(Errno::ENODEV) => "NoSuchDevice",
            Some(Errno::ENOENT | Errno::ESRCH) => "NotFound",
            Some(Errno::EEXIST) => "Conflict",
            Some(Errno::EPERM | Errno::EACCES | Errno::EROFS) => "Denied",
            Some(Errno::EOPNOTSUPP) => "Unsupported",
            Some(Errno::EINVAL | Errno::ERANGE) => "Invalid",
            Some(Errno::ENETDOWN | Errno::ENETUNREACH | Errno::EHOSTUNREACH) => "LinkDown",
            Some(Errno::EBUSY) => "Busy",
            Some(Errno::ENOMEM | Errno::ENOBUFS | Errno::EMFILE | Errno::ENFILE) => {
                "OutOfResources"
            }
            _ => "KernelError",
        }
    }

    /// The kernel's error number, where there was one.
    pub fn errno(&self) -> Option<Errno> {
        os_error(&self.source)
    }
}

/// The kernel's error number behind an IO error, also when it came with an explanation.
pub(crate) fn os_error(error: &io::Error) -> Option<Errno> {
    let raw = error.raw_os_error().or_else(|| {
        let inner = error.get_ref()?.downcast_ref::<Refusal>()?;
        Some(inner.errno as i32)
    })?;
    Some(Errno::from_raw(raw))
}

/// An error number together with the kernel's words about it.
#[derive(Debug, thiserror::Error)]
#[error("{words} ({errno})")]
pub(crate) struct Refusal {
    pub(crate) errno: Errno,
    pub(crate) words: String,
}

impl Refusal {
    /// As an IO error that [`os_error`] understands.
    pub(crate) fn into_io(self) -> io::Error {
        io::Error::new(io::Error::from(self.errno).kind(), self)
    }
}

/// All operations of a list that were refused, never empty.
#[derive(Debug)]
pub struct Errors(pub Vec<Error>);

impl Errors {
    /// The reason of the first one.
    pub fn reason(&self) -> &'static str {
        self.0.first().map_or("KernelError", Error::reason)
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, error) in self.0.iter().enumerate() {
            let separator = if n == 0 { "" } else { "; " };
            write!(f, "{separator}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

impl From<Error> for Errors {
    fn from(error: Error) -> Self {
        Self(vec![error])
    }
}
