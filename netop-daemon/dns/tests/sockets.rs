//! The server over real sockets, asked by `dig` and by hand.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use slicewire_core::dns::{Service, View};
use slicewire_core::name::SliceName;
use slicewire_core::service::model::{Kind, Port, Protocol, ServiceName};
use slicewire_dns::{Known, Limits, Names, Outcome, Sockets, Transport, serve};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::process::Command;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

const SOON: Duration = Duration::from_secs(5);

fn service(addresses: u32) -> Service {
    let port = Port { name: "http".into(), protocol: Protocol::Tcp, port: 80, app_protocol: None };
    Service {
        exported: true,
        kind: Kind::ClusterSetIp,
        addresses: (0..addresses).map(|i| Ipv4Addr::from_bits(0x0a4d_0001 + i).into()).collect(),
        ports: vec![port],
        hosts: vec![],
    }
}

fn blue() -> Result<SliceName> {
    SliceName::parse("blue").map_err(|faults| anyhow::anyhow!("{faults:?}"))
}

fn known() -> Result<Known> {
    let mut view = View::default();
    view.set_slice(&blue()?, &["10.77.0.0/16".parse()?]);
    view.set(&blue()?, &ServiceName::new("shop", "web"), Some(service(1)));
    view.set(&blue()?, &ServiceName::new("shop", "many"), Some(service(300)));
    Ok(Known { view, ..Known::default() })
}

/// A server on a free port of the loopback address; it ends with the value.
struct Server {
    names: Names,
    address: SocketAddr,
    stop: CancellationToken,
}

impl Server {
    fn start(limits: Limits) -> Result<Self> {
        let sockets = Sockets::bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let server = Self {
            names: Names::new(&limits),
            address: sockets.address()?,
            stop: CancellationToken::new(),
        };
        tokio::spawn(serve(sockets, server.names.clone(), server.stop.clone()));
        Ok(server)
    }

    fn knowing() -> Result<Self> {
        let server = Self::start(Limits::default())?;
        server.names.publish(known()?);
        Ok(server)
    }

    /// All that `dig` prints.
    async fn dig(&self, arguments: &str) -> Result<String> {
        let mut command = Command::new("dig");
        command.arg("@127.0.0.1").arg("-p").arg(self.address.port().to_string());
        command.args(["+tries=1", "+time=3", "+norecurse"]).args(arguments.split(' '));
        let output = command.kill_on_drop(true).output().await;
        let output = output.context("dig is needed: apt-get install bind9-dnsutils")?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn count(&self, outcome: Outcome) -> u64 {
        let counters = self.names.counters();
        counters.count(Transport::Udp, outcome) + counters.count(Transport::Tcp, outcome)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A question for the addresses of a name, as bytes.
fn question(id: u16, name: &str) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        message.push(u8::try_from(label.len()).unwrap_or_default());
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}

async fn client() -> Result<UdpSocket> {
    Ok(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?)
}

async fn answer(socket: &UdpSocket) -> Result<Vec<u8>> {
    let mut buffer = vec![0; 4096];
    let len = timeout(SOON, socket.recv(&mut buffer)).await.context("no answer")??;
    buffer.truncate(len);
    Ok(buffer)
}

#[tokio::test]
async fn dig_understands_every_kind_of_answer() -> Result<()> {
    let server = Server::knowing()?;
    let cases = [
        ("+short web.shop.svc.clusterset.local A", "10.77.0.1\n"),
        ("+short +tcp WEB.shop.SVC.blue.slice.local A", "10.77.0.1\n"),
        ("+short _http._tcp.web.shop.svc.slice.local SRV", "0 100 80 web.shop.svc.slice.local.\n"),
        ("+short dns-version.clusterset.local TXT", "\"1.0.0\"\n"),
        ("+short clusterset.local NS", "ns.dns.clusterset.local.\n"),
        (
            "+short slice.local SOA",
            "ns.dns.slice.local. hostmaster.slice.local. 3 7200 1800 86400 5\n",
        ),
    ];
    for (arguments, wanted) in cases {
        assert_eq!(server.dig(arguments).await?, wanted, "{arguments}");
    }
    // Both services have this address; the first by name has the one name of it.
    assert_eq!(server.dig("+short -x 10.77.0.1").await?, "many.shop.svc.clusterset.local.\n");
    let parts = [
        ("nix.shop.svc.clusterset.local A", "status: NXDOMAIN"),
        ("web.shop.svc.clusterset.local AAAA", "status: NOERROR"),
        ("web.shop.svc.clusterset.local AAAA", "ANSWER: 0, AUTHORITY: 1"),
        ("web.shop.svc.clusterset.local AAAA", "\tSOA\tns.dns.slice.local."),
        ("example.org A", "status: REFUSED"),
        ("-c CH web.shop.svc.clusterset.local A", "status: REFUSED"),
        ("+edns=1 +noednsnegotiation web.shop.svc.clusterset.local A", "status: BADVERS"),
        ("+opcode=notify web.shop.svc.clusterset.local A", "status: NOTIMP"),
        ("+header-only", "status: FORMERR"),
        ("web.shop.svc.clusterset.local A", "flags: qr aa;"),
        ("wEb.shop.svc.clusterset.local A", "wEb.shop.svc.clusterset.local. 5 IN\tA"),
    ];
    for (arguments, wanted) in parts {
        let told = server.dig(arguments).await?;
        ensure!(told.contains(wanted), "dig {arguments}: no {wanted:?} in\n{told}");
    }
    Ok(())
}

#[tokio::test]
async fn what_is_too_much_for_a_datagram_comes_over_tcp() -> Result<()> {
    let server = Server::knowing()?;
    let cut = server.dig("+ignore many.shop.svc.clusterset.local A").await?;
    ensure!(cut.contains("flags: qr aa tc;") && cut.contains("ANSWER: 0"), "{cut}");
    let whole = server.dig("+short many.shop.svc.clusterset.local A").await?;
    assert_eq!(whole.lines().count(), 300);
    assert_eq!(server.count(Outcome::Truncated), 2);
    Ok(())
}

#[tokio::test]
async fn nothing_is_denied_before_it_is_known_and_changes_show_at_once() -> Result<()> {
    let server = Server::start(Limits::default())?;
    let ask = || server.dig("web.shop.svc.clusterset.local A");
    let told = ask().await?;
    ensure!(told.contains("status: SERVFAIL"), "{told}");
    server.names.publish(known()?);
    ensure!(ask().await?.contains("10.77.0.1"));
    let blue = blue()?;
    server.names.change(|k| k.view.set(&blue, &ServiceName::new("shop", "web"), None));
    let told = ask().await?;
    ensure!(told.contains("status: NXDOMAIN"), "{told}");
    Ok(())
}

#[tokio::test]
async fn who_asks_for_itself_is_answered_from_its_own_slices() -> Result<()> {
    let server = Server::knowing()?;
    let own = IpAddr::from(Ipv4Addr::LOCALHOST);
    for (slices, wanted) in
        [(BTreeSet::new(), "status: NXDOMAIN"), (BTreeSet::from([blue()?]), "status: NOERROR")]
    {
        server.names.change(|k| drop(k.askers.insert(own, slices)));
        let told = server.dig("web.shop.svc.clusterset.local A").await?;
        ensure!(told.contains(wanted), "{told}");
    }
    Ok(())
}

#[tokio::test]
async fn many_questions_on_one_connection_are_answered_in_order() -> Result<()> {
    let server = Server::knowing()?;
    let mut stream = TcpStream::connect(server.address).await?;
    let mut sent = Vec::new();
    for id in 0..200u16 {
        let question = question(id, "web.shop.svc.clusterset.local");
        sent.extend(u16::try_from(question.len())?.to_be_bytes());
        sent.extend(question);
    }
    // In two pieces, cut inside a question.
    let (first, second) = sent.split_at(sent.len() / 2 + 1);
    stream.write_all(first).await?;
    sleep(Duration::from_millis(20)).await;
    stream.write_all(second).await?;
    for id in 0..200u16 {
        let len = timeout(SOON, stream.read_u16()).await.context("no answer")??;
        let mut answer = vec![0; usize::from(len)];
        stream.read_exact(&mut answer).await?;
        assert_eq!(answer.get(..2), Some(&id.to_be_bytes()[..]));
    }
    Ok(())
}

#[tokio::test]
async fn a_flood_is_limited_and_counted() -> Result<()> {
    let per_client = NonZeroU32::new(50).context("not zero")?;
    let server = Server::start(Limits { per_client, ..Limits::default() })?;
    server.names.publish(known()?);
    let flood = client().await?;
    flood.connect(server.address).await?;
    for id in 0..500u16 {
        flood.send(&question(id, "web.shop.svc.clusterset.local")).await?;
    }
    let since = Instant::now();
    while server.count(Outcome::Answered) + server.names.counters().over_limit() < 500 {
        ensure!(since.elapsed() < SOON, "{}", server.names.counters().render());
        sleep(Duration::from_millis(10)).await;
    }
    let answered = server.count(Outcome::Answered);
    ensure!((50..150).contains(&answered), "{answered} of 500 were answered");
    let figures = server.names.counters().render();
    ensure!(figures.contains(&format!("slicewire_dns_limited_total {}\n", 500 - answered)));
    // Another client is not in its way. Linux has all of 127.0.0.0/8.
    for last in 2..10u8 {
        let other = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, last), 0)).await?;
        other.connect(server.address).await?;
        other.send(&question(7, "web.shop.svc.clusterset.local")).await?;
        answer(&other).await?;
    }
    Ok(())
}

#[tokio::test]
async fn rubbish_is_counted_and_does_no_harm() -> Result<()> {
    let server = Server::knowing()?;
    let socket = client().await?;
    socket.connect(server.address).await?;
    let good = question(9, "web.shop.svc.clusterset.local");
    let mut response = good.clone();
    response[2] |= 0x80;
    for rubbish in [&b""[..], b"\0", &[0xff; 11], &response] {
        socket.send(rubbish).await?;
    }
    socket.send(good.get(..20).context("long enough")?).await?;
    let formerr = answer(&socket).await?;
    assert_eq!(formerr.get(..4), Some(&[0, 9, 0x80, 1][..]));
    socket.send(&good).await?;
    assert_eq!(answer(&socket).await?.get(..4), Some(&[0, 9, 0x84, 0][..]));
    assert_eq!(server.count(Outcome::Short), 3);
    assert_eq!(server.count(Outcome::NotQuestion), 1);
    assert_eq!(server.count(Outcome::Malformed), 1);
    // A stream that announces more than a question is closed.
    let mut stream = TcpStream::connect(server.address).await?;
    stream.write_all(&[0xff; 64]).await?;
    let mut rest = Vec::new();
    timeout(SOON, stream.read_to_end(&mut rest)).await.context("it stays open")?.ok();
    assert_eq!(rest, b"");
    Ok(())
}

#[tokio::test]
async fn one_client_cannot_take_all_connections() -> Result<()> {
    let server = Server::start(Limits { connections_per_client: 3, ..Limits::default() })?;
    server.names.publish(known()?);
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(server.address).await?;
        let question = question(1, "web.shop.svc.clusterset.local");
        stream.write_all(&u16::try_from(question.len())?.to_be_bytes()).await?;
        stream.write_all(&question).await?;
        timeout(SOON, stream.read_u16()).await.context("no answer")??;
        held.push(stream);
    }
    let mut fourth = TcpStream::connect(server.address).await?;
    let read = timeout(SOON, fourth.read(&mut [0; 1])).await.context("it stays open")?;
    ensure!(matches!(read, Ok(0) | Err(_)), "the fourth was taken");
    assert_eq!(server.names.counters().connections_refused(), 1);
    Ok(())
}

#[tokio::test]
async fn the_next_version_takes_over_and_no_question_is_lost() -> Result<()> {
    let first = Server::knowing()?;
    let names = Names::new(&Limits::default());
    names.publish(known()?);
    let stop = CancellationToken::new();
    let done = CancellationToken::new();
    let asking = tokio::spawn({
        let (address, done) = (first.address, done.clone());
        async move {
            let mut id = 0u16;
            while !done.is_cancelled() {
                // A socket each, so that both versions are asked.
                let socket = client().await?;
                socket.connect(address).await?;
                socket.send(&question(id, "web.shop.svc.clusterset.local")).await?;
                answer(&socket).await.with_context(|| format!("question {id}"))?;
                id = id.wrapping_add(1);
            }
            anyhow::Ok(())
        }
    });
    let while_asked = Duration::from_millis(100);
    sleep(while_asked).await;
    let second = Sockets::bind(first.address)?;
    tokio::spawn(serve(second, names.clone(), stop.clone()));
    sleep(while_asked).await;
    first.stop.cancel();
    sleep(while_asked).await;
    done.cancel();
    let asked = asking.await?;
    let figures = || format!("{}{}", first.names.counters().render(), names.counters().render());
    asked.with_context(figures)?;
    ensure!(first.count(Outcome::Answered) > 0);
    ensure!(names.counters().count(Transport::Udp, Outcome::Answered) > 0);
    stop.cancel();
    Ok(())
}
