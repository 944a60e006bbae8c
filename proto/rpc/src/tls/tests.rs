use std::pin::Pin;

use futures::stream;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use super::*;
use crate::gateway::v1::route_service_client::RouteServiceClient;
use crate::gateway::v1::route_service_server::{RouteService, RouteServiceServer};
use crate::gateway::v1::{WatchRoutesRequest, WatchRoutesResponse};

const BLUE: &str = "blue.gateway.slicewire.internal";

struct Authority(Issuer<'static, KeyPair>, String);

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.distinguished_name.push(DnType::CommonName, "the same for all");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let pem = parameters.self_signed(&key).unwrap().pem();
        Self(Issuer::new(parameters, key), pem)
    }

    fn sign(&self, name: &str, usage: ExtendedKeyUsagePurpose) -> Credentials {
        let key = KeyPair::generate().unwrap();
        let mut leaf = CertificateParams::new(vec![name.to_owned()]).unwrap();
        leaf.extended_key_usages = vec![usage];
        Credentials {
            authorities: self.1.clone(),
            certificate: leaf.signed_by(&key, &self.0).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }

    fn server(&self, name: &str) -> Credentials {
        self.sign(name, ExtendedKeyUsagePurpose::ServerAuth)
    }

    fn client(&self) -> Credentials {
        self.sign("netop-daemon", ExtendedKeyUsagePurpose::ClientAuth)
    }
}

/// Says its name once and then nothing more.
struct Talker;

#[tonic::async_trait]
impl RouteService for Talker {
    type WatchRoutesStream =
        Pin<Box<dyn Stream<Item = Result<WatchRoutesResponse, Status>> + Send>>;

    async fn watch_routes(
        &self,
        _: Request<WatchRoutesRequest>,
    ) -> Result<Response<Self::WatchRoutesStream>, Status> {
        let said = WatchRoutesResponse { slice: "blue".into(), ..Default::default() };
        let once = stream::iter([Ok(said)]).chain(stream::pending());
        Ok(Response::new(Box::pin(once)))
    }
}

fn write(directory: &Path, credentials: &Credentials) {
    for (name, text) in [
        (AUTHORITIES, &credentials.authorities),
        (CERTIFICATE, &credentials.certificate),
        (KEY, &credentials.key),
    ] {
        std::fs::write(directory.join(name), text).unwrap();
    }
}

/// A server with the certificate in this directory; its address.
async fn serve(directory: &Path) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let incoming = accept(TcpListenerStream::new(listener), follow(directory.to_owned()).await);
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(RouteServiceServer::new(Talker))
            .serve_with_incoming(incoming),
    );
    address
}

type Talk = tonic::Streaming<WatchRoutesResponse>;
type Answer = Result<Talk, Box<dyn std::error::Error>>;

async fn talk(endpoint: Endpoint) -> Answer {
    let channel: Channel = endpoint.connect_timeout(Duration::from_secs(2)).connect().await?;
    let mut routes = RouteServiceClient::new(channel);
    let asked = routes.watch_routes(WatchRoutesRequest::default());
    let mut talk = tokio::time::timeout(Duration::from_secs(2), asked).await??.into_inner();
    assert_eq!(talk.message().await?.unwrap().slice, "blue");
    Ok(talk)
}

async fn ask(address: &str, tls: ClientTlsConfig) -> Answer {
    talk(Endpoint::from_shared(format!("https://{address}")).unwrap().tls_config(tls).unwrap())
        .await
}

#[tokio::test]
async fn only_a_client_of_the_same_authority_gets_an_answer() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), &ours.server(BLUE));
    let address = serve(directory.path()).await;

    ask(&address, ours.client().client(BLUE)).await.unwrap();

    let refused = |what: &str, answer: Answer| assert!(answer.is_err(), "{what} got an answer");
    let anonymous =
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&ours.1)).domain_name(BLUE);
    refused("nobody", ask(&address, anonymous).await);
    let stranger = Credentials { authorities: ours.1.clone(), ..theirs.client() };
    refused("a stranger", ask(&address, stranger.client(BLUE)).await);
    let gateway = ours.server("red.gateway.slicewire.internal");
    refused("a gateway", ask(&address, gateway.client(BLUE)).await);
    let plain = Endpoint::from_shared(format!("http://{address}")).unwrap();
    refused("one without TLS", talk(plain).await);
}

#[tokio::test]
async fn a_client_listens_to_nobody_but_the_gateway_it_looks_for() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let client = ours.client();
    for (what, impostor) in [
        ("another slice's gateway", ours.server("red.gateway.slicewire.internal")),
        ("a client", ours.client()),
        ("a stranger", theirs.server(BLUE)),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let trusting = Credentials { authorities: ours.1.clone(), ..impostor };
        write(directory.path(), &trusting);
        let address = serve(directory.path()).await;
        let answer = ask(&address, client.client(BLUE)).await;
        assert!(answer.is_err(), "{what} was listened to");
    }
}

#[tokio::test]
async fn new_files_are_used_broken_ones_are_not_and_streams_go_on() {
    let (old, new) = (Authority::new(), Authority::new());
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), &old.server(BLUE));
    let address = serve(directory.path()).await;
    let mut talk = ask(&address, old.client().client(BLUE)).await.unwrap();

    std::fs::write(directory.path().join(KEY), "no key").unwrap();
    tokio::time::sleep(LOOK + Duration::from_secs(1)).await;
    ask(&address, old.client().client(BLUE)).await.unwrap();

    write(directory.path(), &new.server(BLUE));
    tokio::time::sleep(LOOK + Duration::from_secs(1)).await;
    ask(&address, new.client().client(BLUE)).await.unwrap();
    assert!(ask(&address, old.client().client(BLUE)).await.is_err());
    let more = tokio::time::timeout(Duration::from_millis(200), talk.message()).await;
    assert!(more.is_err(), "the old stream ended: {more:?}");
}

#[test]
fn what_is_missing_is_named() {
    let without = |missing: &'static str| {
        Credentials::read(|name| (name != missing).then(|| b"x".to_vec())).unwrap_err().to_string()
    };
    for name in [AUTHORITIES, CERTIFICATE, KEY] {
        assert!(without(name).contains(name));
    }
    let all = Credentials::read(|_| Some(b"x".to_vec())).unwrap();
    assert!(all.server().unwrap_err().to_string().contains(AUTHORITIES));
}
