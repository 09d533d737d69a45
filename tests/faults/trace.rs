//! Runs the program under a tracer that sees every system call that changes something below a folder, in order, over
//! all threads. Each call can pass, fail, or be the point at which the program is killed.
//!
//! strace can inject failures too, but counts the calls of each thread separately, so that a number does not identify a
//! point of the whole program.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::libc::{self, user_regs_struct};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// A system call that is about to be made.
#[derive(Debug, Clone)]
pub struct Call {
    /// The name of the call.
    pub name: &'static str,
    /// The path of its first argument, or of the file that belongs to its file descriptor.
    pub path: PathBuf,
    /// The second path of a call with two.
    pub to: Option<PathBuf>,
    /// Whether the call can change something.
    pub changes: bool,
}

impl std::fmt::Display for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{} {}", self.name, self.path.display())
    }
}

/// The fate of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Passes,
    /// The call fails with this error and does nothing.
    Fails(i32),
    /// The program is killed before the call.
    Kills,
    /// The program receives this signal before the call.
    Signals(Signal),
}

/// The end of a program.
#[derive(Debug)]
pub struct End {
    /// The exit code; `None` if the program was killed.
    pub code: Option<i32>,
    pub stderr: String,
    /// Whether a call had another fate than to pass.
    pub is_disturbed: bool,
    /// The inodes of the files below the folder whose content was not flushed to disk after it was written.
    pub unsynced: BTreeSet<u64>,
}

/// Runs `program` in the folder `home`. `decide` is called for every system call on a path there.
pub fn run(program: &Command, home: &Path, decide: &mut dyn FnMut(&Call, &BTreeSet<u64>) -> Fate) -> End {
    let mut messages = tempfile::tempfile().unwrap();
    // the shell stops itself, so that nothing happens before the tracer is attached
    let mut stopped = Command::new("sh");
    stopped.args(["-c", "kill -STOP $$; exec \"$0\" \"$@\""]).arg(program.get_program()).args(program.get_args());
    stopped.current_dir(home).env_remove("MULTIDIGIT_MIRRORS").stdin(Stdio::null()).process_group(0);
    stopped.stdout(Stdio::null()).stderr(messages.try_clone().unwrap());
    let first = Pid::from_raw(stopped.spawn().expect("a shell").id().try_into().expect("a process's number"));
    let flags = WaitPidFlag::WUNTRACED;
    assert!(matches!(waitpid(first, Some(flags)), Ok(WaitStatus::Stopped(_, Signal::SIGSTOP))));
    let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_EXITKILL;
    ptrace::seize(first, options).expect("a child can be traced");
    kill(first, Signal::SIGCONT).unwrap();

    let mut tracer = Tracer {
        first,
        home: home.to_owned(),
        inside: BTreeMap::new(),
        is_disturbed: false,
        unsynced: BTreeSet::new(),
    };
    let code = tracer.watch(decide);
    let mut stderr = String::new();
    messages.rewind().unwrap();
    messages.read_to_string(&mut stderr).expect("output is UTF-8");
    End { code, stderr, is_disturbed: tracer.is_disturbed, unsynced: tracer.unsynced }
}

/// The state of a thread between the entry and the exit of a call.
struct Inside {
    call: Option<Call>,
    registers: user_regs_struct,
    fails: Option<i32>,
}

struct Tracer {
    first: Pid,
    home: PathBuf,
    /// The threads that are in a call.
    inside: BTreeMap<Pid, Inside>,
    is_disturbed: bool,
    unsynced: BTreeSet<u64>,
}

impl Tracer {
    /// Follows all threads until the program has ended. Returns its exit code.
    fn watch(&mut self, decide: &mut dyn FnMut(&Call, &BTreeSet<u64>) -> Fate) -> Option<i32> {
        loop {
            // wait only for the processes that this thread of the tests started
            match waitpid(None, Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD)).expect("a process to wait for") {
                WaitStatus::Exited(pid, code) if pid == self.first => return Some(code),
                WaitStatus::Signaled(pid, ..) if pid == self.first => return None,
                WaitStatus::Exited(..) | WaitStatus::Signaled(..) => {}
                WaitStatus::PtraceSyscall(pid) => match self.inside.remove(&pid) {
                    None => self.begins(pid, decide),
                    Some(inside) => self.ends(pid, inside),
                },
                WaitStatus::Stopped(pid, Signal::SIGCONT) => go_on(pid, None),
                WaitStatus::Stopped(pid, signal) => go_on(pid, Some(signal)),
                WaitStatus::PtraceEvent(pid, ..) => go_on(pid, None),
                _ => {}
            }
        }
    }

    fn begins(&mut self, pid: Pid, decide: &mut dyn FnMut(&Call, &BTreeSet<u64>) -> Fate) {
        let Ok(registers) = ptrace::getregs(pid) else { return };
        let call = self.call(pid, &registers);
        let fate = call.as_ref().map_or(Fate::Passes, |call| decide(call, &self.unsynced));
        self.is_disturbed |= fate != Fate::Passes;
        let mut fails = None;
        match fate {
            Fate::Passes => {}
            Fate::Fails(error) => {
                fails = Some(error);
                let none = user_regs_struct { orig_rax: u64::MAX, ..registers };
                ptrace::setregs(pid, none).expect("the registers of a stopped thread");
            }
            Fate::Kills => {
                kill(self.first, Signal::SIGKILL).expect("the program still runs");
                return;
            }
            Fate::Signals(signal) => kill(self.first, signal).expect("the program still runs"),
        }
        self.inside.insert(pid, Inside { call, registers, fails });
        go_on(pid, None);
    }

    fn ends(&mut self, pid: Pid, inside: Inside) {
        let Ok(mut registers) = ptrace::getregs(pid) else { return };
        if let Some(error) = inside.fails {
            registers.rax = i64::from(-error) as u64;
            ptrace::setregs(pid, registers).expect("the registers of a stopped thread");
        } else if let Some(call) = inside.call
            && (registers.rax as i64) >= 0
        {
            self.note(pid, &call, &inside.registers);
        }
        go_on(pid, None);
    }

    /// Records which files are not yet on disk.
    fn note(&mut self, pid: Pid, call: &Call, registers: &user_regs_struct) {
        let inode = |fd: u64| std::fs::metadata(format!("/proc/{pid}/fd/{fd}")).map(|meta| meta.ino()).ok();
        match call.name {
            "write" | "pwrite64" | "writev" | "ftruncate" => self.unsynced.extend(inode(registers.rdi)),
            "copy_file_range" => self.unsynced.extend(inode(registers.rdx)),
            "fsync" | "fdatasync" => {
                inode(registers.rdi).iter().for_each(|inode| {
                    self.unsynced.remove(inode);
                });
            }
            _ => {}
        }
    }

    /// The call, if it concerns something in the folder.
    fn call(&self, pid: Pid, registers: &user_regs_struct) -> Option<Call> {
        let arguments = [registers.rdi, registers.rsi, registers.rdx, registers.r10];
        let at = |folder: usize, path: usize| self.path(pid, Some(arguments[folder]), arguments[path]);
        let plain = |path: usize| self.path(pid, None, arguments[path]);
        let file = |fd: usize| std::fs::read_link(format!("/proc/{pid}/fd/{}", arguments[fd] as i32)).ok();
        let creates = |flags: u64| flags as i32 & (libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC) != 0;
        let none = || None;
        let (name, path, to, changes): (_, _, Option<PathBuf>, _) = match registers.orig_rax as i64 {
            libc::SYS_write => ("write", file(0), none(), true),
            libc::SYS_pwrite64 => ("pwrite64", file(0), none(), true),
            libc::SYS_writev => ("writev", file(0), none(), true),
            libc::SYS_copy_file_range => ("copy_file_range", file(2), none(), true),
            libc::SYS_ftruncate => ("ftruncate", file(0), none(), true),
            libc::SYS_fsync => ("fsync", file(0), none(), true),
            libc::SYS_fdatasync => ("fdatasync", file(0), none(), true),
            libc::SYS_fchmod => ("fchmod", file(0), none(), true),
            libc::SYS_flock => ("flock", file(0), none(), true),
            libc::SYS_openat => ("openat", at(0, 1), none(), creates(arguments[2])),
            libc::SYS_mkdir => ("mkdir", plain(0), none(), true),
            libc::SYS_mkdirat => ("mkdir", at(0, 1), none(), true),
            libc::SYS_unlink => ("unlink", plain(0), none(), true),
            libc::SYS_unlinkat => ("unlink", at(0, 1), none(), true),
            libc::SYS_rmdir => ("rmdir", plain(0), none(), true),
            libc::SYS_rename => ("rename", plain(0), plain(1), true),
            libc::SYS_renameat => ("rename", at(0, 1), at(2, 3), true),
            libc::SYS_renameat2 => ("renameat2", at(0, 1), at(2, 3), true),
            libc::SYS_link => ("link", plain(0), plain(1), true),
            libc::SYS_linkat => ("link", at(0, 1), at(2, 3), true),
            libc::SYS_read => ("read", file(0), none(), false),
            libc::SYS_getdents64 => ("getdents64", file(0), none(), false),
            libc::SYS_statx => ("statx", at(0, 1), none(), false),
            _ => return None,
        };
        let path = path.filter(|path| path.starts_with(&self.home))?;
        Some(Call { name, path, to, changes })
    }

    /// The path at an address in the program, relative to the folder of a descriptor or to the
    /// program's working directory.
    fn path(&self, pid: Pid, folder: Option<u64>, address: u64) -> Option<PathBuf> {
        let memory = File::open(format!("/proc/{pid}/mem")).ok()?;
        let mut bytes = vec![0; libc::PATH_MAX as usize];
        // a path may end just before unmapped memory
        let page = 4096 - address as usize % 4096;
        let mut read = memory.read_at(&mut bytes[..page], address).ok()?;
        if !bytes[..read].contains(&0) {
            read += memory.read_at(&mut bytes[page..], address + page as u64).unwrap_or(0);
        }
        let end = bytes[..read].iter().position(|byte| *byte == 0)?;
        let path = PathBuf::from(std::str::from_utf8(&bytes[..end]).ok()?);
        let from = match folder.map(|folder| folder as i32) {
            None | Some(libc::AT_FDCWD) => self.home.clone(),
            Some(folder) => std::fs::read_link(format!("/proc/{pid}/fd/{folder}")).ok()?,
        };
        Some(from.join(path))
    }
}

fn go_on(pid: Pid, signal: Option<Signal>) {
    // a thread that has just been killed cannot be resumed
    let _ = ptrace::syscall(pid, signal);
}
