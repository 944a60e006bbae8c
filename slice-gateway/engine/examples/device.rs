//! A device with nothing but its control socket: `device wg0`, then `wg setconf wg0 FILE`.

use slicewire_engine::{Engine, Options};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let mut options = Options::new(args.next().ok_or("usage: device INTERFACE [QUEUE] [MTU]")?);
    if let Some(queue) = args.next() {
        options.queue = queue.parse()?;
    }
    if let Some(mtu) = args.next() {
        options.mtu = mtu.parse()?;
    }
    let _engine = Engine::start(options)?;
    loop {
        std::thread::park();
    }
}
