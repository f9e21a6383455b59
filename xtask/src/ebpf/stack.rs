// SPDX-License-Identifier: Apache-2.0
//! How much stack the kernel programs take, by the rule of older kernels: newer ones count less, so a program that loads on
//! the machine that built it may be refused on a machine with Linux 6.1.
//!
//! The frames of a chain of calls are added up, each rounded up to 32 bytes and none counting less, and may take 512
//! (`check_max_stack_depth` of the verifier, Linux 6.1; `MAX_BPF_STACK`).

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use object::read::elf::ElfFile64;
use object::{Object, ObjectSection, ObjectSymbol, RelocationTarget, SectionIndex, SymbolKind};

/// Bytes that all frames of a chain may take together.
const STACK_MAX: u64 = 512;
/// What a frame is rounded up to, in bytes.
const ROUND: u64 = 32;
/// Bytes of an instruction.
const INSN: u64 = 8;
/// Calls in a chain: the verifier allows 8 frames, so a longer chain goes round in circles.
const FRAMES_MAX: usize = 8;
/// The register that points to the end of the frame.
const FRAME_POINTER: u8 = 10;

/// Refuses programs whose calls can take more stack than an older kernel allows.
pub fn check(elf: &[u8]) -> anyhow::Result<()> {
    check_functions(&functions(elf)?)
}

fn check_functions(functions: &BTreeMap<Place, Function>) -> anyhow::Result<()> {
    functions
        .values()
        .try_for_each(|function| check_chain(functions, function, &mut Vec::new()))
}

/// One function.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Function {
    name: String,
    /// Bytes of stack that it uses.
    frame: u64,
    /// Where the functions start that it calls.
    calls: Vec<Place>,
}

/// Section and offset of a function's first instruction.
type Place = (usize, u64);

fn rounded(frame: u64) -> u64 {
    frame.max(1).next_multiple_of(ROUND)
}

/// Looks at every chain of calls that begins here.
fn check_chain<'a>(
    functions: &'a BTreeMap<Place, Function>,
    function: &'a Function,
    chain: &mut Vec<&'a Function>,
) -> anyhow::Result<()> {
    chain.push(function);
    let taken: u64 = chain.iter().map(|called| rounded(called.frame)).sum();
    if taken > STACK_MAX || chain.len() > FRAMES_MAX {
        let names: Vec<String> = chain
            .iter()
            .map(|called| format!("{} ({})", called.name, called.frame))
            .collect();
        bail!(
            "older kernels (Linux 6.1) would refuse the programs: these {} calls take {taken} bytes of stack where {STACK_MAX} are allowed, each frame rounded up to {ROUND}: {}",
            chain.len(),
            names.join(" -> ")
        );
    }
    for place in &function.calls {
        let called = functions
            .get(place)
            .with_context(|| format!("{} calls into the middle of nothing", function.name))?;
        check_chain(functions, called, chain)?;
    }
    chain.pop();
    Ok(())
}

/// Every function of the object, by where it starts.
fn functions(elf: &[u8]) -> anyhow::Result<BTreeMap<Place, Function>> {
    let file = ElfFile64::<object::LittleEndian>::parse(elf).context("the programs are no ELF")?;
    let mut functions = BTreeMap::new();
    for symbol in file.symbols() {
        let (SymbolKind::Text, Some(section)) = (symbol.kind(), symbol.section_index()) else {
            continue;
        };
        if symbol.size() == 0 {
            continue;
        }
        let name = symbol.name().context("a function without a name")?;
        let code = file
            .section_by_index(section)?
            .data_range(symbol.address(), symbol.size())?
            .with_context(|| format!("{name} has no code"))?;
        let calls = calls(&file, section, symbol.address(), code)?;
        functions.insert(
            (section.0, symbol.address()),
            Function {
                name: name.to_owned(),
                frame: frame(code),
                calls,
            },
        );
    }
    Ok(functions)
}

/// The fields of an instruction that matter here (`struct bpf_insn`).
struct Insn {
    code: u8,
    to: u8,
    from: u8,
    offset: i64,
    imm: i64,
}

fn insns(code: &[u8]) -> impl Iterator<Item = Insn> {
    code.chunks_exact(8).map(|insn| Insn {
        code: insn[0],
        to: insn[1] & 0xf,
        from: insn[1] >> 4,
        offset: i64::from(i16::from_le_bytes([insn[2], insn[3]])),
        imm: i64::from(i32::from_le_bytes([insn[4], insn[5], insn[6], insn[7]])),
    })
}

/// How far down from the frame pointer a function reaches. Registers that point into the frame are followed from one
/// instruction to the next, as compilers make them: copied from the frame pointer, then moved down.
fn frame(code: &[u8]) -> u64 {
    const CLASS: u8 = 0x07;
    const LDX: u8 = 0x01;
    const ST: u8 = 0x02;
    const STX: u8 = 0x03;
    const ALU64: u8 = 0x07;
    const MOV_REGISTER: u8 = 0xbf;
    const ADD_NUMBER: u8 = 0x07;
    let mut below: [Option<i64>; 16] = [None; 16];
    below[usize::from(FRAME_POINTER)] = Some(0);
    let mut lowest = 0;
    for insn in insns(code) {
        let (to, from) = (usize::from(insn.to), usize::from(insn.from));
        match (insn.code & CLASS, insn.code) {
            (_, MOV_REGISTER) => below[to] = below[from],
            (_, ADD_NUMBER) => below[to] = below[to].map(|at| at + insn.imm),
            (ST | STX, _) => {
                lowest = lowest.min(below[to].map_or(0, |at| at + insn.offset));
            }
            (LDX, _) => {
                lowest = lowest.min(below[from].map_or(0, |at| at + insn.offset));
                below[to] = None;
            }
            (ALU64 | 0x04 | 0x00, _) => below[to] = None,
            _ => {}
        }
        below[usize::from(FRAME_POINTER)] = Some(0);
        // What is handed to a helper lies above where the pointer points.
        lowest = below.iter().flatten().copied().fold(lowest, i64::min);
    }
    lowest.unsigned_abs()
}

/// Where the functions start that this code calls. Calls in other sections, and of functions that have a symbol, are
/// relocated: the number in the instruction then counts from the symbol, else from the next instruction.
fn calls(
    file: &ElfFile64<'_, object::LittleEndian>,
    section: SectionIndex,
    start: u64,
    code: &[u8],
) -> anyhow::Result<Vec<Place>> {
    const CALL: u8 = 0x85;
    /// `BPF_PSEUDO_CALL`: a function of the program, not a helper of the kernel.
    const OWN: u8 = 1;
    let relocated: BTreeMap<u64, RelocationTarget> = file
        .section_by_index(section)?
        .relocations()
        .map(|(at, relocation)| (at, relocation.target()))
        .collect();
    let mut calls = Vec::new();
    for (number, insn) in (0_u64..).zip(insns(code)) {
        if insn.code != CALL || insn.from != OWN {
            continue;
        }
        let at = start + number * INSN;
        let ahead = (insn.imm + 1) * INSN as i64;
        let (section, base) = match relocated.get(&at) {
            Some(RelocationTarget::Symbol(symbol)) => {
                let symbol = file.symbol_by_index(*symbol)?;
                let section = symbol.section_index();
                (
                    section.context("a call of what is not there")?,
                    symbol.address(),
                )
            }
            _ => (section, at),
        };
        let place = base
            .checked_add_signed(ahead)
            .context("a call before the beginning")?;
        if !calls.contains(&(section.0, place)) {
            calls.push((section.0, place));
        }
    }
    Ok(calls)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(name: &str, frame: u64, calls: &[u64]) -> Function {
        Function {
            name: name.to_owned(),
            frame,
            calls: calls.iter().map(|at| (1, *at)).collect(),
        }
    }

    #[test]
    fn frames_of_a_chain_add_up_each_rounded_up() {
        let mut functions: BTreeMap<Place, Function> = [
            ((1, 0), function("program", 128, &[8])),
            ((1, 8), function("a", 160, &[16])),
            ((1, 16), function("b", 192, &[24])),
            ((1, 24), function("memset", 0, &[])),
        ]
        .into();
        check_functions(&functions).expect("512 bytes");
        // One byte more is 32 more.
        functions.insert((1, 16), function("b", 193, &[24]));
        let error = check_functions(&functions).expect_err("544 bytes");
        assert!(
            error.to_string().contains(
                "these 4 calls take 544 bytes of stack where 512 are allowed, each frame rounded up to 32: program (128) -> a (160) -> b (193) -> memset (0)"
            ),
            "{error}"
        );
    }

    #[test]
    fn calls_that_go_round_in_circles_are_refused() {
        let functions = [((1, 0), function("a", 8, &[0]))].into();
        assert!(check_functions(&functions).is_err());
    }

    /// `op to, from, offset, imm`.
    fn insn(code: u8, to: u8, from: u8, offset: i16, imm: i32) -> Vec<u8> {
        let mut bytes = vec![code, from << 4 | to];
        bytes.extend(offset.to_le_bytes());
        bytes.extend(imm.to_le_bytes());
        bytes
    }

    #[test]
    fn a_frame_reaches_as_far_down_as_it_is_used_or_handed_on() {
        let store = insn(0x7b, 10, 1, -24, 0);
        assert_eq!(frame(&store), 24);
        // r2 = r10; r2 += -64: the beginning of what a helper reads.
        let handed = [insn(0xbf, 2, 10, 0, 0), insn(0x07, 2, 0, 0, -64)].concat();
        assert_eq!(frame(&[store, handed].concat()), 64);
        // r2 = *(r1 + 0); r2 += -96: no part of the frame.
        let other = [insn(0x79, 2, 1, 0, 0), insn(0x07, 2, 0, 0, -96)].concat();
        assert_eq!(frame(&other), 0);
    }
}
