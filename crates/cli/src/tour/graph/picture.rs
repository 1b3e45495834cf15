//! A picture of where the pages of a region are: one line, a character a part.

use std::{env, io::IsTerminal};

use cohmem::{PageMap, Tier};

/// Parts that a line shows.
const WIDTH: usize = 64;

/// Shows a map, and the share that is on the device.
pub(super) fn line(map: &PageMap) -> String {
    let tiers: Vec<_> = map.entries().iter().map(|entry| entry.tier()).collect();
    format!("[{}] {:>3}%", cells(&tiers, is_coloured()), percent(&tiers))
}

/// What the characters mean.
pub(super) const LEGEND: &str =
    "where the pages are:  # device   + in part   . home   (blank: never touched)";

fn is_coloured() -> bool {
    std::io::stdout().is_terminal() && env::var_os("NO_COLOR").is_none()
}

fn percent(tiers: &[Tier]) -> usize {
    let nr_there = tiers.iter().filter(|&&tier| tier == Tier::Device).count();
    (nr_there * 100).checked_div(tiers.len()).unwrap_or(0)
}

fn cells(tiers: &[Tier], is_coloured: bool) -> String {
    let mut text = String::new();
    for cell in 0..WIDTH {
        let end = (cell + 1) * tiers.len() / WIDTH;
        let start = (cell * tiers.len() / WIDTH).min(end.saturating_sub(1));
        let part = &tiers[start..end];
        let nr_there = part.iter().filter(|&&tier| tier == Tier::Device).count();
        let (character, colour) = if nr_there > 0 && nr_there == part.len() {
            ('#', "32")
        } else if nr_there > 0 {
            ('+', "33")
        } else if part.contains(&Tier::System) {
            ('.', "36")
        } else {
            (' ', "0")
        };
        match is_coloured {
            true => text.push_str(&format!("\x1b[{colour}m{character}\x1b[0m")),
            false => text.push(character),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_tells_of_all_its_pages() {
        let mut tiers = vec![Tier::System; 640];
        tiers[..320].fill(Tier::Device);
        tiers[325] = Tier::Device;
        tiers[600..].fill(Tier::None);
        let text = cells(&tiers, false);
        assert_eq!(&text[..34], format!("{}+.", "#".repeat(32)));
        assert_eq!(&text[60..], "    ");
        assert_eq!(percent(&tiers), 50);
        assert_eq!(cells(&tiers[..3], false).len(), WIDTH);
        assert_eq!(cells(&[], false), " ".repeat(WIDTH));
    }
}
