//! The server a portal's page comes from: it hands out the page, and hears what the page found out.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Longest word of the page's, in bytes.
const LONGEST: usize = 1 << 20;

/// A site; it is closed when it is dropped.
pub(super) struct Site<'r> {
    /// Its origin, and the URL of its page.
    pub(super) origin: String,
    runtime: &'r Runtime,
    words: mpsc::UnboundedReceiver<Value>,
    serving: JoinHandle<()>,
}

/// What there is to get.
struct Content {
    script: String,
    wish: String,
    heard: mpsc::UnboundedSender<Value>,
}

impl<'r> Site<'r> {
    /// Opens a site of an origin of its own; the page asks it for the wish.
    pub(super) fn open(runtime: &'r Runtime, script: &str, wish: &Value) -> Result<Self> {
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let origin = format!("http://{}", listener.local_addr()?);
        let (heard, words) = mpsc::unbounded_channel();
        let content = Content { script: script.to_owned(), wish: wish.to_string(), heard };
        let serving = runtime.spawn(serve(listener, Arc::new(content)));
        Ok(Self { origin, runtime, words, serving })
    }

    /// Waits for the page's next word, which has to be about this step.
    pub(super) fn told(&mut self, step: &str, patience: Duration) -> Result<Value> {
        let words = &mut self.words;
        let word = self.runtime.block_on(async { timeout(patience, words.recv()).await });
        let word = word.with_context(|| format!("the page says nothing; expected: {step}"))?;
        let word = word.context("the site is closed")?;
        match word["step"] == step {
            true => Ok(word),
            false => bail!("expected from the page: {step}; it says {word}"),
        }
    }
}

impl Drop for Site<'_> {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, content: Arc<Content>) {
    while let Ok((stream, _)) = listener.accept().await {
        let content = content.clone();
        let answer = service_fn(move |request| answer(request, content.clone()));
        let connection = hyper::server::conn::http1::Builder::new();
        tokio::spawn(connection.serve_connection(TokioIo::new(stream), answer));
    }
}

async fn answer(
    request: Request<Incoming>,
    content: Arc<Content>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (kind, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/page.js") => ("text/javascript", content.script.clone()),
        (&Method::GET, "/wish") => ("application/json", content.wish.clone()),
        (&Method::GET, "/") => {
            ("text/html", "<!doctype html><script type=module src=/page.js></script>".to_owned())
        }
        (&Method::POST, "/told") => {
            let body = Limited::new(request.into_body(), LONGEST).collect().await;
            let word = body.ok().and_then(|b| serde_json::from_slice(&b.to_bytes()).ok());
            // Nobody listens once the story has seen enough.
            let _ = content.heard.send(word.unwrap_or_default());
            ("text/plain", String::new())
        }
        _ => ("text/plain", String::new()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    let kind = hyper::header::HeaderValue::from_static(kind);
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, kind);
    Ok(response)
}
