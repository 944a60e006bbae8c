//! Plans from a file: on machines outside clusters, and where there is no Kubernetes to ask.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use slicewire_api::SliceGatewaySpec;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Plans;

/// How often the file is read again.
const LOOK: Duration = Duration::from_millis(500);

/// A plan as people and programs write it: the whole object, or only its spec.
#[derive(Deserialize)]
#[serde(untagged)]
enum Document {
    Object { spec: SliceGatewaySpec },
    Spec(SliceGatewaySpec),
}

/// Reads a plan.
pub(super) fn read(path: &Path) -> io::Result<SliceGatewaySpec> {
    parse(&std::fs::read(path)?)
}

fn parse(bytes: &[u8]) -> io::Result<SliceGatewaySpec> {
    match serde_json::from_slice(bytes) {
        Ok(Document::Object { spec } | Document::Spec(spec)) => Ok(spec),
        // The spec's own error says which field is wrong; that of the choice does not.
        Err(_) => {
            let value: serde_json::Value = serde_json::from_slice(bytes)?;
            Ok(serde_json::from_value(value.get("spec").cloned().unwrap_or(value))?)
        }
    }
}

/// Sends what the file says, now and whenever it changes, until `stop`.
pub(in super::super) fn watch(path: PathBuf, stop: CancellationToken) -> Plans {
    let (send, plans) = mpsc::channel(1);
    tokio::spawn(async move {
        let follow = follow(&path, send);
        stop.run_until_cancelled(follow).await;
    });
    plans
}

async fn follow(path: &Path, send: mpsc::Sender<SliceGatewaySpec>) {
    let mut last: Option<Result<Vec<u8>, String>> = None;
    let mut look = tokio::time::interval(LOOK);
    loop {
        look.tick().await;
        let now = std::fs::read(path).map_err(|error| error.to_string());
        if last.as_ref() == Some(&now) {
            continue;
        }
        match now.clone().map(|bytes| parse(&bytes).map_err(|error| error.to_string())) {
            Ok(Ok(spec)) => {
                if send.send(spec).await.is_err() {
                    return;
                }
            }
            Ok(Err(error)) | Err(error) => {
                let path = path.display();
                tracing::warn!(%path, %error, "cannot read the plan; keeping to the last one");
            }
        }
        last = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: &str =
        r#"{"slice":"blue","cluster":"east","prefixes":["10.20.0.0/16"],"mtu":1400,"lanes":[]}"#;

    #[test]
    fn an_object_and_its_spec_are_the_same() {
        let object = format!(
            r#"{{"apiVersion":"slicewire.dev/v1alpha1","kind":"SliceGateway","metadata":{{"name":"blue"}},"spec":{SPEC}}}"#
        );
        assert_eq!(parse(object.as_bytes()).unwrap(), parse(SPEC.as_bytes()).unwrap());
    }

    #[test]
    fn an_error_names_the_field() {
        let wrong = SPEC.replace("1400", "\"large\"");
        let error = parse(wrong.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("large"), "{error}");
        let missing = SPEC.replace("\"mtu\":1400,", "");
        let error = parse(missing.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("mtu"), "{error}");
    }

    #[tokio::test]
    async fn a_changed_file_is_read_again_and_a_broken_one_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plan.json");
        std::fs::write(&path, SPEC).unwrap();
        let stop = CancellationToken::new();
        let mut plans = watch(path.clone(), stop.clone());
        assert_eq!(plans.recv().await.unwrap().mtu, 1400);
        std::fs::write(&path, "{").unwrap();
        tokio::time::sleep(LOOK * 2).await;
        std::fs::write(&path, SPEC.replace("1400", "1380")).unwrap();
        assert_eq!(plans.recv().await.unwrap().mtu, 1380);
        stop.cancel();
        assert!(plans.recv().await.is_none());
    }
}
