//! Kernels that lack something, by a filter that refuses the system calls to ask for it.
//!
//! What a program is refused with is what an older kernel says: an unknown ioctl is EINVAL
//! (`tun_chr_ioctl`), an unknown socket option ENOPROTOOPT (socket(7)).

use std::{io, os::unix::process::CommandExt, process::Command};

/// What a kernel can lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// A header with offloads in front of packets of a TUN device (before Linux 2.6.27).
    VnetHeader,
    /// Any offload of a TUN device.
    TunOffloads,
    /// UDP segmentation on a TUN device (before Linux 6.2).
    TunUdpSegmentation,
    /// Segmentation of UDP datagrams on sending (before Linux 4.18).
    UdpSegmentation,
    /// Joined UDP datagrams on receiving (before Linux 5.0).
    UdpJoining,
}

/// All of them.
pub const ALL: [Lack; 5] = [
    Lack::VnetHeader,
    Lack::TunOffloads,
    Lack::TunUdpSegmentation,
    Lack::UdpSegmentation,
    Lack::UdpJoining,
];

/// A system call with these values as arguments, by number, and the error it ends with.
struct Refused {
    call: libc::c_long,
    arguments: &'static [(u32, u32)],
    error: libc::c_int,
}

impl Lack {
    fn refused(self) -> Refused {
        let ioctl = |arguments| Refused { call: libc::SYS_ioctl, arguments, error: libc::EINVAL };
        let option = |arguments| {
            let error = libc::ENOPROTOOPT;
            Refused { call: libc::SYS_setsockopt, arguments, error }
        };
        match self {
            // TUNSETVNETHDRSZ.
            Self::VnetHeader => ioctl(&[(1, 0x4004_54d8)]),
            // TUNSETOFFLOAD.
            Self::TunOffloads => ioctl(&[(1, 0x4004_54d0)]),
            // The same with checksums, TCP and UDP (TUN_F_CSUM, TSO4, TSO6, TSO_ECN, USO4, USO6).
            Self::TunUdpSegmentation => ioctl(&[(1, 0x4004_54d0), (2, 0x6f)]),
            // UDP_SEGMENT of SOL_UDP.
            Self::UdpSegmentation => option(&[(1, 17), (2, 103)]),
            // UDP_GRO of SOL_UDP.
            Self::UdpJoining => option(&[(1, 17), (2, 104)]),
        }
    }
}

/// Makes `command` run as on a kernel with these lacks.
pub fn lack(command: &mut Command, lacks: &[Lack]) {
    if lacks.is_empty() {
        return;
    }
    let program: Vec<libc::sock_filter> = program(lacks);
    // SAFETY: between fork and exec only prctl is called, with a filter that was made before and
    // outlives the call; it is async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            let filter = libc::sock_fprog {
                len: program.len() as libc::c_ushort,
                filter: program.as_ptr().cast_mut(),
            };
            let mode = libc::SECCOMP_MODE_FILTER;
            let done = libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const filter) == 0;
            if done { Ok(()) } else { Err(io::Error::last_os_error()) }
        });
    }
}

/// The filter (seccomp(2)): one block for each refused call, and all else allowed.
fn program(lacks: &[Lack]) -> Vec<libc::sock_filter> {
    let load = |k| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, k, 0);
    let give = |k| statement(libc::BPF_RET | libc::BPF_K, k, 0);
    let mut program = Vec::new();
    for refused in lacks.iter().map(|lack| lack.refused()) {
        // Where the call's number and the lower half of each argument are in `seccomp_data`.
        let conditions = refused.arguments.iter().map(|(i, value)| (16 + 8 * i, *value));
        let conditions: Vec<_> = [(0, refused.call as u32)].into_iter().chain(conditions).collect();
        for (position, (offset, value)) in conditions.iter().enumerate() {
            // What follows in this block: two instructions a condition, and the verdict.
            let rest = 2 * (conditions.len() - position - 1) + 1;
            program.push(load(*offset));
            let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
            program.push(statement(equal, *value, rest as u8));
        }
        program.push(give(libc::SECCOMP_RET_ERRNO | refused.error as u32));
    }
    program.push(give(libc::SECCOMP_RET_ALLOW));
    program
}

/// An instruction that skips `otherwise` instructions if its condition does not hold.
fn statement(code: u32, k: u32, otherwise: u8) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: otherwise, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks for UDP segmentation by a program that everyone has.
    #[test]
    fn only_what_is_lacking_is_refused() {
        let ask = |option: &str, lacks: &[Lack]| {
            let script = format!(
                "use Socket; socket(S, AF_INET, SOCK_DGRAM, 0) or die;
                 exit(setsockopt(S, 17, {option}, pack('i', 0)) ? 0 : $! + 0)"
            );
            let mut command = Command::new("perl");
            lack(command.args(["-e", &script]), lacks);
            command.status().unwrap().code()
        };
        assert_eq!(ask("103", &[]), Some(0));
        assert_eq!(ask("104", &[Lack::UdpSegmentation]), Some(0));
        assert_eq!(ask("103", &[Lack::UdpSegmentation]), Some(libc::ENOPROTOOPT));
        assert_eq!(ask("104", &ALL), Some(libc::ENOPROTOOPT));
    }
}
