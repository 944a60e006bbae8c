//! Settings below `/proc/sys/net`. The kernel shows the tree of the namespace of the thread that
//! looks a path up, so reading and writing happen inside the namespace.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;

/// Writes a setting of the calling thread's namespace, unless it has that value already: writing
/// some settings (`forwarding`) resets others.
pub(crate) fn write(key: &str, value: &str) -> io::Result<()> {
    let path = path(key)?;
    if fs::read_to_string(&path).is_ok_and(|now| now.trim_end() == value) {
        return Ok(());
    }
    fs::write(&path, value)
}

/// Reads a setting of the calling thread's namespace.
pub(crate) fn read(key: &str) -> io::Result<String> {
    Ok(fs::read_to_string(path(key)?)?.trim_end().to_owned())
}

fn path(key: &str) -> io::Result<PathBuf> {
    let key = Path::new(key);
    let plain = key.components().all(|part| matches!(part, Component::Normal(_)));
    if !plain || key.as_os_str().is_empty() {
        return Err(Errno::EINVAL.into());
    }
    Ok(Path::new("/proc/sys/net").join(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_cannot_leave_the_tree() {
        for key in ["", "../kernel/panic", "/proc/sys/kernel/panic", "ipv4/../../kernel/panic"] {
            assert!(path(key).is_err(), "{key}");
        }
        let inside = path("ipv4/conf/eth0.7/forwarding").unwrap();
        assert_eq!(inside, Path::new("/proc/sys/net/ipv4/conf/eth0.7/forwarding"));
    }
}
