//! A plugin of a node's container runtime that only watches: it is told of every pod sandbox
//! while the runtime waits, before or after the other plugins, by the number it registers with.
//!
//! Two such plugins around the daemon's see from outside how long the daemon holds a pod up.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use prost::Message;
use slicewire_runtime_api::nri::{
    ConfigureResponse, Event, PodSandbox, PodSandboxRequest, RegisterPluginRequest,
    StateChangeEvent, SynchronizeRequest, SynchronizeResponse,
};
use slicewire_runtime_api::ttrpc;

/// The connection on which the runtime calls plugins, and the one the other way.
const PLUGIN: u32 = 1;
const RUNTIME: u32 = 2;
/// Kinds of ttrpc messages.
const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;
/// Connection and length, then length, stream, kind and flags.
const FRAME_HEADER: usize = 8;
const HEADER: usize = 10;
/// How long the runtime may take to accept a plugin.
const PATIENCE: Duration = Duration::from_secs(10);

/// A registered plugin; dropping it takes it away.
#[derive(Debug)]
pub struct Plugin {
    stream: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Plugin {
    /// Registers with the runtime at `socket`. Plugins are called in the order of their two-digit
    /// `index`; `told` is called with every new sandbox, and the runtime goes on when it returns.
    ///
    /// # Errors
    /// The runtime cannot be reached or refuses.
    pub fn register(
        socket: &Path,
        index: &str,
        name: &str,
        told: impl FnMut(&PodSandbox) + Send + 'static,
    ) -> Result<Self> {
        let stream = UnixStream::connect(socket)
            .with_context(|| format!("no runtime at {}", socket.display()))?;
        let payload =
            RegisterPluginRequest { plugin_name: name.to_owned(), plugin_idx: index.to_owned() };
        let request = ttrpc::Request {
            service: "nri.pkg.api.v1alpha1.Runtime".to_owned(),
            method: "RegisterPlugin".to_owned(),
            payload: payload.encode_to_vec(),
            timeout_nano: 0,
        };
        let mut writer = stream.try_clone()?;
        writer.write_all(&frame(RUNTIME, 1, REQUEST, &request.encode_to_vec()))?;
        let (ready, registered) = mpsc::channel();
        let mut reader = stream.try_clone()?;
        let thread = thread::spawn(move || {
            let ended = converse(&mut reader, &mut writer, &ready, told);
            // Nobody waits any more when it ends after it has been registered.
            let _ = ready.send(ended);
        });
        match registered.recv_timeout(PATIENCE) {
            Ok(Ok(())) => Ok(Self { stream, thread: Some(thread) }),
            Ok(Err(error)) => Err(error.context("the runtime does not take the plugin")),
            Err(_) => bail!("the runtime does not answer the plugin"),
        }
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        // Already closed is closed, too.
        let _ = self.stream.shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Answers the runtime until the connection is closed.
fn converse(
    from: &mut UnixStream,
    to: &mut UnixStream,
    ready: &mpsc::Sender<Result<()>>,
    mut told: impl FnMut(&PodSandbox),
) -> Result<()> {
    let mut partial: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    while let Some((connection, bytes)) = read_frame(from)? {
        let pending = partial.entry(connection).or_default();
        pending.extend(bytes);
        while let Some((stream, kind, data)) = take(pending) {
            match (connection, kind) {
                (RUNTIME, RESPONSE) => {
                    let status = ttrpc::Response::decode(data.as_slice())?.status;
                    let refused = status.filter(|s| s.code != 0).map(|s| s.message);
                    ensure!(refused.is_none(), "refused: {refused:?}");
                }
                (PLUGIN, REQUEST) => {
                    let request = ttrpc::Request::decode(data.as_slice())?;
                    let payload = answer(&request, &mut told)?;
                    let response = ttrpc::Response { status: None, payload };
                    to.write_all(&frame(PLUGIN, stream, RESPONSE, &response.encode_to_vec()))?;
                    if request.method == "Synchronize" {
                        let _ = ready.send(Ok(()));
                    }
                }
                _ => {}
            }
        }
    }
    Ok(())
}

fn answer(request: &ttrpc::Request, told: &mut impl FnMut(&PodSandbox)) -> Result<Vec<u8>> {
    let payload = request.payload.as_slice();
    Ok(match request.method.as_str() {
        // Event number n is bit n - 1.
        "Configure" => {
            let events = 1 << (Event::RunPodSandbox as i32 - 1);
            ConfigureResponse { events }.encode_to_vec()
        }
        "Synchronize" => {
            let more = SynchronizeRequest::decode(payload)?.more;
            SynchronizeResponse { more }.encode_to_vec()
        }
        "RunPodSandbox" => {
            PodSandboxRequest::decode(payload)?.pod.iter().for_each(told);
            Vec::new()
        }
        "StateChange" => {
            let event = StateChangeEvent::decode(payload)?;
            if event.event() == Event::RunPodSandbox {
                event.pod.iter().for_each(told);
            }
            Vec::new()
        }
        _ => Vec::new(),
    })
}

/// A ttrpc message in one frame of the multiplexer.
fn frame(connection: u32, stream: u32, kind: u8, data: &[u8]) -> Vec<u8> {
    let word = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes();
    let mut bytes = connection.to_be_bytes().to_vec();
    bytes.extend(word(data.len() + HEADER));
    bytes.extend(word(data.len()));
    bytes.extend(stream.to_be_bytes());
    bytes.extend([kind, 0]);
    bytes.extend(data);
    bytes
}

fn read_frame(from: &mut UnixStream) -> Result<Option<(u32, Vec<u8>)>> {
    let mut header = [0; FRAME_HEADER];
    if from.read_exact(&mut header).is_err() {
        return Ok(None);
    }
    let [a, b, c, d, e, f, g, h] = header;
    let mut bytes = vec![0; u32::from_be_bytes([e, f, g, h]) as usize];
    from.read_exact(&mut bytes)?;
    Ok(Some((u32::from_be_bytes([a, b, c, d]), bytes)))
}

/// Takes a whole message off the front: its stream, kind and data.
fn take(bytes: &mut Vec<u8>) -> Option<(u32, u8, Vec<u8>)> {
    let &[a, b, c, d, e, f, g, h, kind, _flags] = bytes.first_chunk::<HEADER>()?;
    let end = HEADER + u32::from_be_bytes([a, b, c, d]) as usize;
    let data = bytes.get(HEADER..end)?.to_vec();
    bytes.drain(..end);
    Some((u32::from_be_bytes([e, f, g, h]), kind, data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_out_of_the_bytes_they_went_into() {
        let mut bytes = frame(PLUGIN, 7, REQUEST, b"abc");
        assert_eq!(bytes[..8], [0, 0, 0, 1, 0, 0, 0, 13]);
        bytes.drain(..FRAME_HEADER);
        bytes.extend(&frame(PLUGIN, 9, RESPONSE, b"")[FRAME_HEADER..]);
        let last = bytes.pop().unwrap();
        assert_eq!(take(&mut bytes), Some((7, REQUEST, b"abc".to_vec())));
        assert_eq!(take(&mut bytes), None);
        bytes.push(last);
        assert_eq!(take(&mut bytes), Some((9, RESPONSE, vec![])));
    }

    #[test]
    fn sandboxes_are_told_however_the_runtime_words_it() {
        let pod = Some(PodSandbox { id: "s1".to_owned(), ..Default::default() });
        let event = Event::RunPodSandbox as i32;
        let payloads = [
            ("RunPodSandbox", PodSandboxRequest { pod: pod.clone() }.encode_to_vec()),
            ("StateChange", StateChangeEvent { event, pod }.encode_to_vec()),
        ];
        let mut seen = Vec::new();
        for (method, payload) in payloads {
            let request =
                ttrpc::Request { method: method.to_owned(), payload, ..Default::default() };
            answer(&request, &mut |pod: &PodSandbox| seen.push(pod.id.clone())).unwrap();
        }
        assert_eq!(seen, ["s1", "s1"]);
    }
}
