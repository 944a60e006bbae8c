//! The conversation with the runtime.

use std::path::Path;
use std::time::Duration;

use prost::Message as _;
use slicewire_runtime_api::{nri, ttrpc};
use thiserror::Error;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::frame::{self, FrameError, Kind, Message, Reader};

const PLUGIN_SERVICE: &str = "nri.pkg.api.v1alpha1.Plugin";
const RUNTIME_SERVICE: &str = "nri.pkg.api.v1alpha1.Runtime";
/// gRPC status `UNIMPLEMENTED`.
const UNIMPLEMENTED: i32 = 12;
/// The runtime's own limit is two seconds by default; a plugin that exceeds it is cut off.
const ANSWER_WITHIN: Duration = Duration::from_millis(1_800);

/// What the runtime tells or asks.
#[derive(Debug)]
pub(crate) enum Asked {
    /// All sandboxes there are, once after every connect.
    Synchronize(Vec<nri::PodSandbox>),
    /// A sandbox has its network; the first container starts when the answer comes.
    Run(nri::PodSandbox, oneshot::Sender<()>),
    /// A sandbox's containers have ended.
    Stop(nri::PodSandbox),
    /// The connection is gone; CRI is the only source until the next `Synchronize`.
    Disconnected,
}

#[derive(Debug, Error)]
enum PluginError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the runtime sent a message that cannot be decoded: {0}")]
    Decode(#[from] prost::DecodeError),
    #[error("the runtime refused the plugin: {0}")]
    Refused(String),
}

/// Keeps a plugin connected until `stop`; what it is told and asked goes to `to`.
///
/// The runtime may restart, or have no NRI at all; then this waits for its socket.
pub(crate) async fn serve(socket: &Path, to: mpsc::Sender<Asked>, stop: CancellationToken) {
    let mut pause = Duration::from_millis(100);
    loop {
        if let Ok(stream) = UnixStream::connect(socket).await {
            tracing::info!(socket = %socket.display(), "connected to the runtime's NRI");
            let talked = tokio::select! {
                () = stop.cancelled() => return,
                talked = talk(stream, &to, &mut pause) => talked,
            };
            match talked {
                Ok(()) => tracing::info!("the runtime closed its NRI connection"),
                Err(error) => tracing::warn!(%error, "NRI connection lost"),
            }
            if to.send(Asked::Disconnected).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_secs(2)),
        }
    }
}

async fn talk(
    stream: UnixStream,
    to: &mpsc::Sender<Asked>,
    pause: &mut Duration,
) -> Result<(), PluginError> {
    let (mut from, mut into) = stream.into_split();
    // Answers may come out of order, while the runtime goes on asking.
    let (answers, mut outgoing) = mpsc::channel::<Message>(64);
    let writer = tokio::spawn(async move {
        while let Some(message) = outgoing.recv().await {
            if let Err(error) = frame::write(&mut into, &message).await {
                tracing::debug!(%error, "cannot answer the runtime");
                break;
            }
        }
        // The peer notices even if it waits for nothing.
        drop(into.shutdown().await);
    });
    let done = converse(&mut from, &answers, to, pause).await;
    drop(answers);
    writer.abort();
    done
}

async fn converse(
    from: &mut tokio::net::unix::OwnedReadHalf,
    answers: &mpsc::Sender<Message>,
    to: &mpsc::Sender<Asked>,
    pause: &mut Duration,
) -> Result<(), PluginError> {
    let mut reader = Reader::default();
    let mut listed = Vec::new();
    drop(answers.send(register()).await);
    while let Some(message) = reader.next(from).await? {
        match (message.connection, message.kind) {
            (frame::RUNTIME, Kind::Response) => {
                let response = ttrpc::Response::decode(message.data.as_slice())?;
                if let Some(status) = response.status.filter(|s| s.code != 0) {
                    return Err(PluginError::Refused(status.message));
                }
                *pause = Duration::from_millis(100);
            }
            (frame::PLUGIN, Kind::Request) => {
                let request = ttrpc::Request::decode(message.data.as_slice())?;
                dispatch(message.stream, &request, answers, to, &mut listed).await?;
            }
            _ => tracing::debug!(connection = message.connection, "ignored an NRI message"),
        }
    }
    Ok(())
}

fn register() -> Message {
    let payload = nri::RegisterPluginRequest {
        plugin_name: "slicewire".to_owned(),
        // After plugins that change the pod, of which ours is none.
        plugin_idx: "90".to_owned(),
    };
    let request = ttrpc::Request {
        service: RUNTIME_SERVICE.to_owned(),
        method: "RegisterPlugin".to_owned(),
        payload: payload.encode_to_vec(),
        timeout_nano: 0,
    };
    Message {
        connection: frame::RUNTIME,
        stream: 1,
        kind: Kind::Request,
        data: request.encode_to_vec(),
    }
}

async fn dispatch(
    stream: u32,
    request: &ttrpc::Request,
    answers: &mpsc::Sender<Message>,
    to: &mpsc::Sender<Asked>,
    listed: &mut Vec<nri::PodSandbox>,
) -> Result<(), PluginError> {
    let answer = |payload: Vec<u8>| Answer { to: answers.clone(), stream, payload };
    let payload = request.payload.as_slice();
    if request.service != PLUGIN_SERVICE {
        return unknown(answers, stream, request).await;
    }
    match request.method.as_str() {
        "Configure" => {
            let asked = nri::ConfigureRequest::decode(payload)?;
            tracing::info!(runtime = asked.runtime_name, version = asked.runtime_version, "NRI");
            answer(nri::ConfigureResponse { events: events() }.encode_to_vec()).send().await;
        }
        "Synchronize" => {
            let asked = nri::SynchronizeRequest::decode(payload)?;
            listed.extend(asked.pods);
            if !asked.more {
                drop(to.send(Asked::Synchronize(std::mem::take(listed))).await);
            }
            answer(nri::SynchronizeResponse { more: asked.more }.encode_to_vec()).send().await;
        }
        "RunPodSandbox" => {
            let asked = nri::PodSandboxRequest::decode(payload)?;
            run(asked.pod, answer(Vec::new()), to).await;
        }
        "StopPodSandbox" | "RemovePodSandbox" => {
            let asked = nri::PodSandboxRequest::decode(payload)?;
            tell_stop(asked.pod, to).await;
            answer(Vec::new()).send().await;
        }
        "StateChange" => {
            let asked = nri::StateChangeEvent::decode(payload)?;
            match asked.event() {
                nri::Event::RunPodSandbox => run(asked.pod, answer(Vec::new()), to).await,
                nri::Event::StopPodSandbox | nri::Event::RemovePodSandbox => {
                    tell_stop(asked.pod, to).await;
                    answer(Vec::new()).send().await;
                }
                nri::Event::Unknown => answer(Vec::new()).send().await,
            }
        }
        "Shutdown" => answer(Vec::new()).send().await,
        _ => unknown(answers, stream, request).await?,
    }
    Ok(())
}

/// The events we want to be told of; event number `n` is bit `n - 1`.
fn events() -> i32 {
    [nri::Event::RunPodSandbox, nri::Event::StopPodSandbox, nri::Event::RemovePodSandbox]
        .into_iter()
        .fold(0, |mask, event| mask | 1 << (event as i32 - 1))
}

/// Whatever happens to the request, the pod starts: the answer never says no.
async fn run(pod: Option<nri::PodSandbox>, answer: Answer, to: &mpsc::Sender<Asked>) {
    let (done, wait) = oneshot::channel();
    if let Some(pod) = pod
        && to.send(Asked::Run(pod, done)).await.is_err()
    {
        tracing::debug!("nobody attaches any more");
    }
    tokio::spawn(async move {
        if tokio::time::timeout(ANSWER_WITHIN, wait).await.is_err() {
            tracing::warn!("a pod starts before its slice NIC is there; attaching goes on");
        }
        answer.send().await;
    });
}

async fn tell_stop(pod: Option<nri::PodSandbox>, to: &mpsc::Sender<Asked>) {
    if let Some(pod) = pod {
        drop(to.send(Asked::Stop(pod)).await);
    }
}

async fn unknown(
    answers: &mpsc::Sender<Message>,
    stream: u32,
    request: &ttrpc::Request,
) -> Result<(), PluginError> {
    let status = ttrpc::Status {
        code: UNIMPLEMENTED,
        message: format!("{}/{} is not implemented", request.service, request.method),
    };
    let response = ttrpc::Response { status: Some(status), payload: Vec::new() };
    drop(answers.send(reply(stream, &response)).await);
    Ok(())
}

/// A success on its way to the runtime.
struct Answer {
    to: mpsc::Sender<Message>,
    stream: u32,
    payload: Vec<u8>,
}

impl Answer {
    async fn send(self) {
        let response = ttrpc::Response { status: None, payload: self.payload };
        // A closed channel means a closed connection; the runtime has given up waiting.
        drop(self.to.send(reply(self.stream, &response)).await);
    }
}

fn reply(stream: u32, response: &ttrpc::Response) -> Message {
    Message {
        connection: frame::PLUGIN,
        stream,
        kind: Kind::Response,
        data: response.encode_to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(stream: u32, method: &str, payload: Vec<u8>) -> Message {
        let request = ttrpc::Request {
            service: PLUGIN_SERVICE.to_owned(),
            method: method.to_owned(),
            payload,
            timeout_nano: 0,
        };
        let data = request.encode_to_vec();
        Message { connection: frame::PLUGIN, stream, kind: Kind::Request, data }
    }

    async fn next(reader: &mut Reader, runtime: &mut UnixStream) -> Message {
        reader.next(runtime).await.unwrap().unwrap()
    }

    /// A runtime that registers the plugin, lists one sandbox and starts another.
    #[tokio::test]
    async fn a_sandbox_waits_for_its_nic_and_no_longer() {
        let (plugin, mut runtime) = UnixStream::pair().unwrap();
        let (to, mut asked) = mpsc::channel(8);
        let mut pause = Duration::ZERO;
        let talking = tokio::spawn(async move { talk(plugin, &to, &mut pause).await });
        let mut reader = Reader::default();

        let registration = next(&mut reader, &mut runtime).await;
        assert_eq!(registration.connection, frame::RUNTIME);
        let ok = ttrpc::Response::default().encode_to_vec();
        let ok = Message { kind: Kind::Response, data: ok, ..registration };
        frame::write(&mut runtime, &ok).await.unwrap();

        frame::write(&mut runtime, &call(1, "Configure", vec![])).await.unwrap();
        let configured = next(&mut reader, &mut runtime).await;
        let response = ttrpc::Response::decode(configured.data.as_slice()).unwrap();
        let events = nri::ConfigureResponse::decode(response.payload.as_slice()).unwrap().events;
        assert_eq!(events, 0b111);

        let pod = nri::PodSandbox { uid: "u1".into(), ..Default::default() };
        let list = nri::SynchronizeRequest { pods: vec![pod.clone()], more: false };
        frame::write(&mut runtime, &call(3, "Synchronize", list.encode_to_vec())).await.unwrap();
        next(&mut reader, &mut runtime).await;
        assert!(matches!(asked.recv().await, Some(Asked::Synchronize(l)) if l[0].uid == "u1"));

        let run = nri::PodSandboxRequest { pod: Some(pod) }.encode_to_vec();
        frame::write(&mut runtime, &call(5, "RunPodSandbox", run)).await.unwrap();
        let Some(Asked::Run(_, done)) = asked.recv().await else { panic!("not asked") };
        tokio::time::sleep(Duration::from_millis(50)).await;
        let early = runtime.try_read(&mut [0]);
        let blocked = early.is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock);
        assert!(blocked, "answered before the NIC was there");
        done.send(()).unwrap();
        let answer = next(&mut reader, &mut runtime).await;
        assert_eq!((answer.stream, answer.kind), (5, Kind::Response));

        frame::write(&mut runtime, &call(7, "Dance", vec![])).await.unwrap();
        let answer = next(&mut reader, &mut runtime).await;
        let response = ttrpc::Response::decode(answer.data.as_slice()).unwrap();
        assert_eq!(response.status.unwrap().code, UNIMPLEMENTED);

        drop(runtime);
        talking.await.unwrap().unwrap();
    }
}
