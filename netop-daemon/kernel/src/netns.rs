//! Network namespaces: naming, entering, making and removing them.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::fstatfs;

/// Where named namespaces are mounted, as `ip netns` does.
const NETNS_DIR: &str = "/run/netns";
/// File system type of namespace files (`linux/magic.h`).
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// Which network namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NsId {
    /// The one this process runs in.
    Current,
    /// The one behind this file: `/run/netns/sw-blue`, `/proc/4711/ns/net`.
    Path(PathBuf),
}

impl NsId {
    /// The namespace mounted at `/run/netns/<name>`.
    pub fn named(name: &str) -> Self {
        Self::Path(Path::new(NETNS_DIR).join(name))
    }

    /// The namespace behind a file.
    pub fn path(path: impl Into<PathBuf>) -> Self {
        Self::Path(path.into())
    }

    /// The namespace of a process, by its number in our process namespace.
    pub fn of_process(pid: u32) -> Self {
        Self::Path(PathBuf::from(format!("/proc/{pid}/ns/net")))
    }

    /// A number that no other namespace has while this one lives; none where there is no file.
    pub fn number(&self) -> Option<u64> {
        let path = match self {
            Self::Current => Path::new("/proc/self/ns/net"),
            Self::Path(path) => path,
        };
        fs::metadata(path).ok().map(|m| m.ino())
    }

    /// Opens the file; its descriptor keeps the namespace alive.
    pub(crate) fn open(&self) -> io::Result<File> {
        let file = match self {
            Self::Current => File::open("/proc/self/ns/net")?,
            Self::Path(path) => File::open(path)?,
        };
        // A file that nothing is mounted on is what a crash between making and mounting leaves.
        if is_namespace(&file)? { Ok(file) } else { Err(Errno::ENOENT.into()) }
    }

    /// The same; none for the current one, where nobody has to move to.
    pub(crate) fn open_other(&self) -> io::Result<Option<File>> {
        match self {
            Self::Current => Ok(None),
            Self::Path(_) => self.open().map(Some),
        }
    }
}

impl fmt::Display for NsId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Current => f.write_str("current"),
            Self::Path(path) => write!(f, "{}", path.display()),
        }
    }
}

fn is_namespace(file: &File) -> io::Result<bool> {
    Ok(fstatfs(file)?.filesystem_type().0 == NSFS_MAGIC)
}

/// Runs something in what [`NsId::open_other`] gave.
pub(crate) fn inside<T>(
    namespace: Option<&File>,
    work: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    match namespace {
        None => work(),
        Some(file) => run_in(file, work),
    }
}

/// Runs something in a namespace, and the calling thread is back in its own afterwards. A thread
/// that does not find its way back must do nothing more: then the process ends, and its next start
/// takes over what is in the kernel.
fn run_in<T>(namespace: &File, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    /// Goes back when dropped, when the work panics as well.
    struct Back(File);
    impl Drop for Back {
        fn drop(&mut self) {
            if let Err(error) = setns(&self.0, CloneFlags::CLONE_NEWNET) {
                tracing::error!(%error, "a thread is lost in another network namespace");
                std::process::abort();
            }
        }
    }
    let back = Back(File::open("/proc/thread-self/ns/net")?);
    setns(namespace, CloneFlags::CLONE_NEWNET)?;
    let done = work();
    drop(back);
    done
}

/// Runs something in a thread that ends with it.
fn on_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("netns".to_owned())
            .stack_size(128 * 1024)
            .spawn_scoped(scope, work)?
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("a thread in the namespace panicked")))
    })
}

/// Makes the named namespace unless it is there; true if it was made.
pub(crate) fn create(name: &str) -> io::Result<bool> {
    check_name(name)?;
    make_shared_dir(Path::new(NETNS_DIR))?;
    let path = Path::new(NETNS_DIR).join(name);
    if NsId::path(&path).open().is_ok() {
        return Ok(false);
    }
    // The file is only there to be mounted on; one may be left from an interrupted attempt.
    OpenOptions::new().create(true).append(true).open(&path)?;
    on_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let own = Path::new("/proc/thread-self/ns/net");
        mount(Some(own), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        Ok(true)
    })
    .inspect_err(|_| drop(fs::remove_file(&path)))
}

/// Removes a named namespace; true if there was one.
pub(crate) fn delete(name: &str) -> io::Result<bool> {
    check_name(name)?;
    remove(&Path::new(NETNS_DIR).join(name))
}

fn remove(path: &Path) -> io::Result<bool> {
    let namespace = NsId::path(path).open();
    match umount2(path, MntFlags::MNT_DETACH) {
        // Not mounted on is what remains of an interrupted removal.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => {
            // Busy is a file that is mounted on at another place, too. Without its namespace it
            // would be listed no more, and nobody would try again.
            if let Ok(namespace) = namespace {
                let open = format!("/proc/thread-self/fd/{}", namespace.as_raw_fd());
                mount(Some(open.as_str()), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
            }
            Err(error)
        }
    }
}

/// Names below `/run/netns` that begin with `prefix` and have a namespace mounted on.
pub(crate) fn list(prefix: &str) -> io::Result<BTreeSet<String>> {
    let entries = match fs::read_dir(NETNS_DIR) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(error),
    };
    let mut names = BTreeSet::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with(prefix) && NsId::named(&name).open().is_ok() {
            names.insert(name);
        }
    }
    Ok(names)
}

fn check_name(name: &str) -> io::Result<()> {
    if name.is_empty() || name == "." || name == ".." || name.contains('/') {
        return Err(Errno::EINVAL.into());
    }
    Ok(())
}

/// Mounts in the directory must reach other mount namespaces (containers, the host), and their
/// removals too; so it has to be a shared mount, and is made one if it is not a mount yet.
fn make_shared_dir(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let none = None::<&str>;
    let share = || mount(none, dir, none, MsFlags::MS_SHARED | MsFlags::MS_REC, none);
    match share() {
        Ok(()) => Ok(()),
        Err(Errno::EINVAL) => {
            mount(Some(dir), dir, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?;
            Ok(share()?)
        }
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever becomes of the work: here it fails, and panics.
    #[test]
    fn a_thread_comes_back_from_a_namespace() {
        use std::os::linux::fs::MetadataExt as _;
        let here = || fs::metadata("/proc/thread-self/ns/net").map(|m| m.st_ino()).unwrap();
        let other = on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        });
        let (other, own) = (other.unwrap(), here());
        let there = run_in(&other, || Ok(here())).unwrap();
        assert_eq!(there, other.metadata().unwrap().st_ino());
        assert!(run_in(&other, || Err::<(), _>(Errno::EIO.into())).is_err());
        assert_eq!(here(), own);
        let panicked =
            std::panic::catch_unwind(|| run_in(&other, || -> io::Result<()> { panic!() }));
        assert!(panicked.is_err() && there != own);
        assert_eq!(here(), own);
    }

    /// Needs root, as all tests with namespaces do. In a mount namespace of its own, unseen by others.
    #[test]
    fn what_cannot_be_removed_is_still_there_to_be_tried_again() {
        let dir = std::env::temp_dir().join(format!("netns-{}", std::process::id()));
        let (first, second) = (dir.join("first"), dir.join("second"));
        fs::create_dir_all(&first).unwrap();
        fs::create_dir_all(&second).unwrap();
        let path = first.join("sw-x");
        fs::write(&path, "").unwrap();
        let seen = on_thread(|| {
            let none = None::<&str>;
            unshare(CloneFlags::CLONE_NEWNS)?;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
            // One file at two places, mounted on at both.
            mount(Some(&first), &second, none, MsFlags::MS_BIND, none)?;
            let own = Path::new("/proc/thread-self/ns/net");
            for place in [&path, &second.join("sw-x")] {
                mount(Some(own), place, none, MsFlags::MS_BIND, none)?;
            }
            let busy = remove(&path).map_err(|error| error.raw_os_error());
            let still = NsId::path(&path).open().is_ok();
            umount2(&second.join("sw-x"), MntFlags::MNT_DETACH)?;
            Ok((busy, still, remove(&path)?, path.exists()))
        });
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(seen.unwrap(), (Err(Some(Errno::EBUSY as i32)), true, true, false));
    }
}
