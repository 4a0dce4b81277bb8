//! Veth pairs in a network namespace of a test's own, and frames by hand.

use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use natwerk::io::xdp::device::Device;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{self, AddressFamily, SocketType};

/// Runs `test` on a thread in a network namespace of its own with two veth pairs, `a0`-`a1` and
/// `b0`-`b1`.
pub fn in_namespace(queues: u32, test: impl FnOnce() + Send) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: it takes root to make network namespaces");
        return;
    }
    std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            // SAFETY: only this thread, which ends with the test, gets another namespace.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
                .expect("a network namespace");
            for (inner, outer) in [("a0", "a1"), ("b0", "b1")] {
                let queues = queues.to_string();
                ip(&[
                    "link",
                    "add",
                    inner,
                    "numrxqueues",
                    &queues,
                    "numtxqueues",
                    &queues,
                    "type",
                    "veth",
                    "peer",
                    "name",
                    outer,
                    "numrxqueues",
                    &queues,
                    "numtxqueues",
                    &queues,
                ]);
                // No IPv6 chatter.
                for device in [inner, outer] {
                    ip(&["link", "set", device, "addrgenmode", "none"]);
                    ip(&["link", "set", device, "up"]);
                }
            }
            test();
        });
        run.join().expect("the test holds");
    });
}

pub fn ip(arguments: &[&str]) {
    let run = Command::new("ip").args(arguments).output().expect("ip runs");
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(run.status.success(), "ip {}: {said}", arguments.join(" "));
}

/// A packet socket on `device`.
pub fn tap(device: &str) -> OwnedFd {
    let every_protocol = std::num::NonZeroU32::new(u32::from(0x0003u16.to_be()));
    let protocol = every_protocol.map(net::Protocol::from_raw);
    let socket = net::socket(AddressFamily::PACKET, SocketType::RAW, protocol).expect("a socket");
    let index = Device::index_of(device).expect("the device");
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: 0x0003u16.to_be(),
        sll_ifindex: index as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the address is complete and outlives the call.
    let result = unsafe {
        libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size_of_val(&address) as u32)
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    socket
}

pub fn send(tap: &OwnedFd, frame: &[u8]) {
    let sent = net::send(tap, frame, net::SendFlags::empty()).expect("sent");
    assert_eq!(sent, frame.len());
}

/// The next frame on `tap` that is `wanted`.
pub fn next(tap: &OwnedFd, wanted: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
    let deadline = Instant::now() + Duration::from_secs(3);
    let mut buffer = vec![0; 1 << 16];
    while Instant::now() < deadline {
        let pause = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        poll(&mut [PollFd::new(tap, PollFlags::IN)], Some(&pause)).expect("poll");
        while let Ok((length, _)) = net::recv(tap, &mut buffer[..], net::RecvFlags::DONTWAIT) {
            if wanted(&buffer[..length]) {
                return Some(buffer[..length].to_vec());
            }
        }
    }
    None
}

/// An IPv4 frame with `protocol` and ports, from the outer end of a pair to its inner end.
pub fn frame(tag: Option<u16>, destination: [u8; 4], protocol: u8, port: u16, mark: u8) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    if let Some(tag) = tag {
        frame.extend([0x81, 0x00]);
        frame.extend(tag.to_be_bytes());
    }
    frame.extend([8, 0, 0x45, 0, 0, 48, 0, 1, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1]);
    frame.extend(destination);
    frame.extend([0x30, 0x39]);
    frame.extend(port.to_be_bytes());
    frame.extend([0, 28, 0, 0]);
    frame.extend([mark; 20]);
    frame
}

pub const UDP: u8 = 17;
pub const THERE: [u8; 4] = [198, 51, 100, 9];
