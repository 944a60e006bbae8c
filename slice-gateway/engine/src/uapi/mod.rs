//! The control socket that `wg` speaks to: the cross-platform userspace protocol of WireGuard,
//! <https://www.wireguard.com/xplatform/>. One text request after the other, each answered.

mod get;
pub mod set;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::core::peer::Endpoints;
use crate::io::wait;
use crate::shell::{EngineError, Shared};

/// A request is never longer: 1,000 peers with many prefixes take a tenth of it.
const MAX_REQUEST: u64 = 16 << 20;
/// A client that says nothing for so long is let go.
const PATIENCE: Duration = Duration::from_secs(5);

/// A control socket, removed when dropped.
#[derive(Debug)]
pub(crate) struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, path = %self.path.display(), "control socket not removed");
        }
    }
}

/// Makes the socket `<interface>.sock` for root alone. One that a dead process left is replaced.
pub(crate) fn listen(directory: &Path, interface: &str) -> io::Result<Socket> {
    if interface.contains('/') {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    std::fs::create_dir_all(directory)?;
    let path = directory.join(format!("{interface}.sock"));
    if UnixStream::connect(&path).is_ok() {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(Socket { listener, path })
}

/// Answers clients, one at a time, until the engine stops.
pub(crate) fn serve(shared: &Shared, socket: &Socket) {
    while !shared.stopped() {
        if let Err(error) = wait::readable(socket.listener.as_raw_fd(), shared.control_waker()) {
            tracing::error!(%error, "cannot wait for the control socket");
            return;
        }
        while let Ok((stream, _)) = socket.listener.accept() {
            if let Err(error) = answer(shared, &stream) {
                tracing::debug!(%error, "control client went away");
            }
        }
    }
}

fn answer(shared: &Shared, stream: &UnixStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream.take(MAX_REQUEST));
    while !shared.stopped() {
        let mut request = String::new();
        while !request.ends_with("\n\n") {
            if reader.read_line(&mut request)? == 0 {
                return Ok(());
            }
        }
        (&*stream).write_all(respond(shared, &request).as_bytes())?;
    }
    Ok(())
}

fn respond(shared: &Shared, request: &str) -> String {
    let (verb, rest) = request.split_once('\n').unwrap_or((request, ""));
    match verb {
        "get=1" => format!("{}errno=0\n\n", get::text(&shared.config(), &shared.stats())),
        "set=1" => format!("errno={}\n\n", set(shared, rest)),
        _ => format!("errno={}\n\n", libc::EINVAL),
    }
}

/// Applies all of a request or nothing; returns the error number.
fn set(shared: &Shared, text: &str) -> i32 {
    let changes = match set::parse(text) {
        Ok(changes) => changes,
        Err(error) => {
            tracing::warn!(%error, "control request refused");
            return libc::EINVAL;
        }
    };
    let result = shared.update(Endpoints::Always, |config| {
        // What is not mentioned stays as it is.
        config.peers.iter_mut().for_each(|peer| peer.endpoint = None);
        changes.apply(config);
        true
    });
    match result {
        Ok(_) => 0,
        Err(error) => {
            tracing::warn!(%error, "control request failed");
            match error {
                EngineError::Listen { source, .. } | EngineError::Mark { source, .. } => {
                    source.raw_os_error().unwrap_or(libc::EIO)
                }
                _ => libc::EIO,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_private_unique_and_removed() {
        let directory = std::env::temp_dir().join(format!("uapi-test-{}", std::process::id()));
        let socket = listen(&directory, "wg7").unwrap();
        let path = directory.join("wg7.sock");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(listen(&directory, "wg7").unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(socket);
        assert!(!path.exists());
        // What a process that was killed left behind is in nobody's way.
        drop(UnixListener::bind(&path).unwrap());
        drop(listen(&directory, "wg7").unwrap());
        assert!(listen(&directory, "../wg7").is_err());
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
