"""Words by which concepts of stories are told: all but the names in whatever case."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache


def _words(*alternatives: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(alternatives)})\b", re.IGNORECASE)


def _word_list(*alternatives: str) -> Callable[[str], bool]:
    """Returns what says whether a word, with or without what follows its apostrophe, is in a list."""
    pattern = _words(*alternatives)

    @lru_cache(50_000)
    def tells(word: str) -> bool:
        plain = word.replace("\u2019", "'")
        return bool(pattern.fullmatch(plain) or pattern.fullmatch(plain.partition("'")[0]))

    return tells


GENRES = {"bedtime": "bedtime story", "campfire": "campfire story", "child": "child-appropriate tale"}
"""Genres, and the words of an instruction that state each."""

TOPICS = {
    "stars": _words(
        r"star(?:s|ry|light|lit|weaver|dust|ship)?|stellar|space\w*|galax\w+|galactic|cosm\w+|celestial|planet\w*|astr\w+|comets?"
        r"|constellations?|andromeda|orion|aliens?|universe|aurora|sk(?:y|ies)|rocket\w*"
    ),
    "night": _words(
        r"night(?:s|fall|time)?|moon\w*|midnight|twilight|dusk|evening|lullab\w+|slumber\w*|sleep\w*|bedtime|dream\w*|somnium|nightmare\w*"
    ),
    "water": _words(
        r"seas?|ocean\w*|rivers?|creek|lakes?|swamp|islands?|isles?|ships?|pirates?|tides?|cove|harbou?r|lighthouse|beach|mermaids?"
        r"|bay|\w+water|underwater|water\w*|whales?|fish\w*|bayou|ferry"
    ),
    "forest": _words(
        r"forests?|woods?|trees?|gardens?|willow\w*|oaks?|grove|\w*wood|hollow|flowers?|roses?|mountains?|hills?|valley|campsite|acorn"
    ),
    "animals": _words(
        r"animals?|pets?|dogs?|pupp(?:y|ies)|cats?|kittens?|squirrels?|bears?|fox(?:es)?|owls?|birds?|ravens?|horses?|rabbits?|bunny"
        r"|dinosaurs?|dragonfl(?:y|ies)|firefl(?:y|ies)|butterfl(?:y|ies)|wol(?:f|ves)|elephants?|penguins?|turtles?|frogs?|mouse|beasts?"
    ),
    "ghosts": _words(
        r"ghost\w*|haunt\w*|phantoms?|spirits?|specters?|spectral|spectre|graves?|graveyard|dead|undead|souls?|curse[ds]?|devil\w*"
        r"|demon\w*|witch\w*|vampires?|werewol\w+|possess\w+|seance|supernatural"
    ),
    "dread": _words(
        r"dark\w*|shadow\w*|madness|terr(?:or|ors|ifying|ible)|scream\w*|blood\w*|fear\w*|sinister|evil|wicked|creepy|deadly"
        r"|killer|death|horror\w*|abyss|doom\w*|descent|silent|silence"
    ),
    "magic": _words(
        r"magic\w*|dragons?|enchant\w+|wizards?|wand|fair(?:y|ies)|unicorns?|spells?|phoenix|sorcer\w+|amulet|guardians?|kingdom"
        r"|realms?|prophecy|oracle|crystals?|princess|king|queen|castle|knights?"
    ),
    "music and art": _words(
        r"music\w*|songs?|sing\w*|serenad\w+|melod\w+|danc\w+|symphony|orchestra|band|concert|talent|paint\w*|art|artist"
        r"|pencil|piano|drum\w*|fiddle|harmony"
    ),
    "journeys": _words(
        r"journeys?|voyages?|quests?|expeditions?|trips?|travel\w*|adventur\w+|explor\w+|odyssey|roads?|trains?|rides?|riders?|trail"
        r"|highway|maps?|flight|flying|escape"
    ),
    "mystery": _words(
        r"myster\w+|secrets?|cases?|detectives?|missing|disappear\w+|vanish\w+|clues?|hidden|heist|solv\w+|strange\w*|lost"
        r"|forgotten|unknown|whisper\w*|treasures?|legends?"
    ),
    "home": _words(
        r"schools?|friend\w*|birthday|part(?:y|ies)|famil(?:y|ies)|brothers?|sisters?|mom|dad|grandma|grandpa|backyard|tree ?house"
        r"|sleepover|camp\w*|carnival|home|house|neighbou?r\w*|cookies?|kitchen|toys?|town|village|summer"
    ),
    "inventions": _words(r"robots?|invent\w+|machines?|superhero\w*|super|scien\w+|time|clock\w*|quantum|laboratory|gadgets?|computers?"),
}
"""Topics, and the words of a title that tell each."""

NAMES = (
    "Emily", "Luna", "Emma", "Lyra", "Willow", "Jack", "Aria", "Max", "Kael", "Eira", "Lily", "Ava", "Sophia", "Tom", "Elara", "Timmy",
)  # fmt: skip
"""The first names that the most stories have, most frequent first."""

POSITIVE = _word_list(
    r"joy\w*|happ(?:y|ily|iness)|love[ds]?|loving|lovely|smil(?:e|ed|es|ing)|laugh\w*|delight\w*|wonderful\w*|beaut\w+|excite[ds]?|excitement"
    r"|fun|friend(?:s|ly|ship)?|warm\w*|gentle|gently|kind(?:ly|ness)|proud\w*|pride|brave\w*|courage\w*|hope(?:d|s|ful)?|peace\w*|comfort\w*"
    r"|glad\w*|gratef\w+|gratitude|bright\w*|sweet\w*|cheer(?:s|ed|ful|fully|ing)?|safe\w*|amaz\w+|giggl\w+|grin\w*|hug\w*|cozy|sparkl\w+|enchanting"
    r"|thank\w*|celebrat\w+|playful\w*|harmony|magical|best|great|good|favou?rite|perfect\w*|triumph\w*|deliciou?s\w*|treasured?"
)
NEGATIVE = _word_list(
    r"dark(?:ness|er)?|fear\w*|afraid|scar(?:ed|y)|terr(?:or|ified|ifying|ible|ibly)|horr\w+|evil|curse[ds]?|death\w*|dead\w*|die[ds]?|dying"
    r"|kill\w*|blood\w*|scream\w*|cried|cries|crying|sad(?:ly|ness)?|sorrow\w*|pain\w*|lost|lonel\w+|alone|danger\w*|ang(?:er|ry|rily)|fury|furious\w*"
    r"|cruel\w*|grim\w*|eerie|ominous|sinister|dread\w*|chill(?:s|ed|ing)?|malevolent|twisted|worr(?:y|ied)|nervous\w*|trouble[ds]?|haunt(?:ed|ing)"
    r"|doom\w*|despair\w*|madness|mad|menac\w+|shriek\w*|trembl\w+|shiver\w*|screech\w*|howl\w*|grief|wicked|panic\w*|nightmar\w+|cold|trapped"
    r"|abandoned|rotting|decay\w*|skeletal|threat\w*|tragic\w*|tragedy|vengeful|vengeance|wail\w*|tear(?:s|ful)|bad|wrong|hurt\w*"
)
"""Small word lists made for these stories; no regard for negation."""

PAST = _word_list(
    r"was|were|had|did|could|would|wasn't|weren't|hadn't|didn't|couldn't|wouldn't|\w+'d",
    r"(?!(?:bed|red|need|indeed|hundred|seed|speed|feed|weed|shed|sacred|naked|wicked|kindred|embed|breed|succeed)\b)[a-z]{2,}ed",
    r"said|went|came|saw|felt|knew|took|made|found|began|stood|told|thought|heard|held|kept|lay|met|ran|rose|sat|spoke|became|grew|fell|got|gave"
    r"|brought|caught|drew|flew|wore|shone|spent|woke|won|wrote|broke|built|chose|crept|drove|fled|forgot|hid|meant|paid|sang|slept|slid|stole|swam"
    r"|swept|taught|threw|understood|wept|blew|ate|drank|rode|shook|sent|sank|spun|strode|struck|swung|tore|left|led",
)  # fmt: skip
PRESENT = _word_list(
    r"is|are|am|has|have|do|does|can|will|isn't|aren't|hasn't|haven't|don't|doesn't|can't|won't|i'm|\w+'(?:re|ve|ll)",
    r"(?:it|that|there|he|she|what|who|here|let)'s",
    r"says|goes|comes|sees|feels|knows|takes|makes|finds|begins|stands|tells|thinks|hears|seems|looks|wants|needs|lives|lies|know|think|want|need",
)
"""Verb forms; participles count as past, which they most often are here."""
