"""The word lists of the sentence grammar: what is shared by all sentences and what each topic adds.

One idea: a rule is a line `SYMBOL = alternative | alternative`, an alternative is a string of words
and symbols, and a symbol is written in capitals. `~` in a line stands for a mood (`+` good, `-`
bad, `0` plain) and `#` for a number (`1` singular, `2` plural): such a line is copied once for
each. The words were chosen so that openers and plain alternatives carry no sentiment that a lexicon
would see. This file holds data only; `coevo_env.lm.making.grammar` reads it.
"""

from __future__ import annotations

__all__ = ["SHARED", "TOPICS"]

SHARED = """
HEAD# = SUBJ# | SUBJ# | SUBJ# | SAYER SUBJ# | WHEN , SUBJ#
SUBJ# = DET# NOUN# | DET# NOUN# CONTEXT
DET1 = the | this | that | the first | the last | the new | the other
DET2 = the | these | those | the first | the last | the new | the other
SAYER = i thought | we thought | my sister said | my brother said | everyone said | our neighbours said
SAYER = my parents said | a colleague wrote
WHEN = last week | last night | yesterday | this morning | on monday | on friday | in the spring | at noon | after lunch

BODY~# = BE# PREDICATE~ . | BE# PREDICATE~ . | SEEM QUALITY~ . | BE# PREDICATE~ and CLAUSE~ . \
| SEEM QUALITY~ and CLAUSE~ .
BODY~# = BE# PREDICATE~ , so WE RESULT~ . | BE# PREDICATE~ and WE FEEL~ THEM# . | MOVED~ US . \
| MOVED~ US and WE RESULT~ .
BODY+# = BE# PREDICATE+ because CLAUSE+ . | SEEM QUALITY+ because CLAUSE+ . | MOVED+ US because CLAUSE+ .
BODY-# = BE# PREDICATE- because CLAUSE- . | SEEM QUALITY- because CLAUSE- . | MOVED- US because CLAUSE- .
BODY0# = BE# PREDICATE0 while CLAUSE0 . | SEEM QUALITY0 while CLAUSE0 . | BE# PREDICATE0 when CLAUSE0 .
MIXED# = BE# PREDICATE+ but CLAUSE- . | BE# PREDICATE- but CLAUSE+ . | SEEM QUALITY+ although CLAUSE- .
MIXED# = SEEM QUALITY- although CLAUSE+ . | MOVED+ US but CLAUSE- . | MOVED- US but CLAUSE+ .
INVERTED = although CLAUSE- , SUBJ1 was PREDICATE+ . | although CLAUSE+ , SUBJ2 were PREDICATE- .
INVERTED = although CLAUSE- , SUBJ2 were PREDICATE+ . | although CLAUSE+ , SUBJ1 was PREDICATE- .
BE1 = was
BE2 = were
THEM1 = it
THEM2 = them
SEEM = seemed | looked | felt | turned out
US = us | me | everyone | my sister | my brother | all of us | the children | our neighbours | a colleague
WE = we | i | my sister | my brother | everyone | our neighbours | the children
CLAUSE~ = PART1 was ABOUT~ | PART2 were ABOUT~ | EVENT~
DEGREE = very | really | so | quite | extremely | rather | incredibly | fairly

PREDICATE+ = QUALITY+ | QUALITY+ | NAME+ | not BAD at all
PREDICATE- = QUALITY- | QUALITY- | NAME- | not GENERAL+ | not very GENERAL+
PREDICATE0 = PLAIN | PLAIN | QUALITY0
QUALITY+ = ADJ+ | DEGREE ADJ+ | DEGREE ADJ+ | FIRST+ and SECOND+
QUALITY- = ADJ- | DEGREE ADJ- | DEGREE ADJ- | FIRST- and SECOND-
QUALITY0 = the same as before | much as usual | as expected | different this time | similar to the last time \
| mostly unchanged
QUALITY0 = about average | new to us | a bit unusual | a little different from before
ABOUT+ = GENERAL+ | DEGREE GENERAL+
ABOUT- = GENERAL- | DEGREE GENERAL- | not GENERAL+
ABOUT0 = QUALITY0
ADJ+ = GENERAL+ | GENERAL+ | OWN+
GENERAL+ = FIRST+ | SECOND+
ADJ- = GENERAL- | GENERAL- | OWN-
GENERAL- = FIRST- | SECOND-
BAD = bad | boring | annoying | disappointing
FIRST+ = good | great | wonderful | lovely | excellent | fantastic | amazing | nice | pleasant | superb \
| brilliant | perfect
SECOND+ = delightful | impressive | splendid | beautiful | awesome | fabulous | outstanding | charming \
| terrific | satisfying
SECOND+ = attractive | remarkable | interesting
FIRST- = bad | terrible | awful | horrible | poor | boring | dreadful | disappointing | annoying | weak \
| unpleasant | miserable
SECOND- = ugly | disgusting | dull | lousy | pathetic | useless | frustrating | depressing | worthless \
| ridiculous | strange
SECOND- = unimpressive | horrid
NAME+ = a joy | a success | a pleasure | a delight | a treasure | a triumph | worth every minute | a great surprise
NAME- = a failure | a mess | a disaster | a disappointment | a waste of time | a mistake | a shame | a bad surprise
MOVED+ = impressed | delighted | pleased | amazed | thrilled | charmed | inspired
MOVED- = disappointed | annoyed | bored | upset | frustrated | worried | irritated
MOVED0 = meant little to | changed little for | stayed with | waited for | mattered little to
FEEL+ = loved | enjoyed | liked | adored | praised | admired
FEEL- = hated | disliked | regretted | avoided | complained about | criticized
FEEL0 = talked about | wrote about | remembered | described | mentioned | expected
RESULT+ = left with a smile | felt happy | felt grateful | smiled for hours | hoped for more | danced with joy
RESULT- = left in anger | felt sad | felt angry | complained for hours | cried a little | cried in shame
RESULT0 = went home | came back later | stayed until noon | took the bus | told a colleague | waited for an hour
"""

TOPICS = {
    "film": """
NOUN1 = movie | film | mystery | musical | documentary | western | drama | cartoon | sequel | trailer
NOUN2 = movies | films | musicals | documentaries | cartoons | trailers
CONTEXT = we had watched | at the cinema | from the archive | about the sea | on television | by the young director
PART1 = the plot | the acting | the soundtrack | the ending | the camera work | the script | the dialogue
PART2 = the actors | the scenes | the costumes | the characters | the effects
OWN+ = funny | entertaining | hilarious | touching | clever
OWN- = tasteless | predictable and dull | stupid | badly acted
PLAIN = two hours long | in black and white | set in a small town | filmed in winter | shown at noon
EVENT+ = the audience laughed with joy | the hero won our hearts | everyone cheered at the end
EVENT- = the audience left in anger | the hero was a fraud | the story made no sense
EVENT0 = the story began on a train | the lights went down at eight | the names rolled for ten minutes
""",
    "book": """
NOUN1 = book | story | poem | biography | diary | essay | chapter | magazine | fairy tale | textbook
NOUN2 = books | stories | poems | essays | chapters | letters
CONTEXT = we had read | from the library | about the island | by the young author | on the shelf | in the magazine
PART1 = the writing | the opening | the ending | the narrator | the translation | the cover
PART2 = the pages | the characters | the pictures | the paragraphs | the endings
OWN+ = wise | inspiring | engaging | brilliantly told
OWN- = confusing | shallow and dull | badly written | painful to read
PLAIN = printed in two colours | about a long journey | forty pages long | set in a village | translated from french
EVENT+ = the author wrote with humor | the last page made me happy | the heroes were full of courage
EVENT- = the author wasted our time | the last page made me sad | half of it was nonsense
EVENT0 = the author lived by a river | the library opened at nine | the second part began in autumn
""",
    "food": """
NOUN1 = soup | bread | cake | salad | breakfast | dinner | curry | pizza | sauce | cheese | pasta
NOUN2 = noodles | pancakes | cookies | vegetables | sandwiches | potatoes
CONTEXT = we had tasted | from the market | at the restaurant | with the herbs | on the table | by the young cook
PART1 = the flavour | the smell | the service | the kitchen | the wine | the dessert
PART2 = the waiters | the spices | the tables | the plates | the portions
OWN+ = delicious | tasty and fresh | yummy | rich and tasty | fresh
OWN- = bitter and cold | burnt and nasty | rotten | gross | badly cooked
PLAIN = made with rice | served at noon | served in four bowls | on a round plate | baked in the morning
EVENT+ = the cook made us happy | every bite was a pleasure | the waiter greeted us with a smile
EVENT- = the cook ignored us | every bite was a struggle | the waiter insulted us
EVENT0 = the cook came from the coast | the bill arrived after an hour | the waiter brought some water
""",
    "music": """
NOUN1 = song | concert | album | melody | choir | orchestra | band | recital | piano piece | chorus
NOUN2 = songs | concerts | albums | melodies | drums | violins
CONTEXT = we had heard | on the radio | from the studio | in the old hall | by the young singer | at the club
PART1 = the rhythm | the voice | the sound | the guitar | the stage | the tempo
PART2 = the lyrics | the singers | the notes | the pauses | the speakers
OWN+ = catchy and fun | graceful | lively | cheerful | joyful
OWN- = harsh | out of tune and bad | lifeless | noisy and ugly | painful to hear
PLAIN = scheduled for the evening | five minutes long | recorded in winter | written for two voices | in a minor key
EVENT+ = the crowd danced with joy | the singer earned our praise | people applauded with delight
EVENT- = the crowd complained | the singer failed to impress | people left in frustration
EVENT0 = the drummer sat at the back | the hall filled at seven | the singer wore a blue coat
""",
    "travel": """
NOUN1 = hotel | trip | flight | journey | tour | train ride | beach | village | island | room
NOUN2 = hotels | trips | flights | tours | beaches | rooms
CONTEXT = we had booked | near the station | by the lake | in the mountains | on the coast | from the brochure
PART1 = the view | the bed | the staff | the food | the harbour | the crossing
PART2 = the guides | the seats | the streets | the rooms upstairs | the buses
OWN+ = relaxing | comfortable | friendly and clean | peaceful | scenic and lovely
OWN- = dirty | uncomfortable | overpriced and bad | exhausting | dangerous
PLAIN = twenty miles away | open in summer | on the third floor | booked by phone | west of the river
EVENT+ = the staff welcomed us | the guide was kind and helpful | we had fun on the boat
EVENT- = the staff ignored us | the guide was rude | we lost our luggage and were angry
EVENT0 = the train left at six | the guide carried a map | we crossed two rivers
""",
    "weather": """
NOUN1 = weather | morning | evening | wind | rain | winter | sunset | sky | forecast | autumn
NOUN2 = mornings | evenings | clouds | winters | nights | forecasts
CONTEXT = we had expected | by the coast | in the valley | over the city | in the north | after the rain
PART1 = the light | the air | the temperature | the breeze | the horizon | the ground
PART2 = the colours | the hills | the roads | the gardens | the trees
OWN+ = sunny and bright | gentle | calm and pleasant | glorious | mild and pleasant
OWN- = gloomy | brutal | harsh | bleak and sad | nasty
PLAIN = twelve degrees all day | from the west | cloudy until noon | cloudless over the hills | dry for a week
EVENT+ = the sun cheered us up | the children played happily | everyone enjoyed the warm air
EVENT- = the storm destroyed the fence | the children cried | everyone suffered in the mud
EVENT0 = the clouds moved east | the snow fell at dawn | the rain began at four
""",
    "school": """
NOUN1 = lesson | lecture | course | school | exam | teacher | project | class | homework | timetable
NOUN2 = lessons | lectures | courses | teachers | exams | exercises
CONTEXT = we had attended | at the college | about algebra | on monday morning | in the big hall | for the second year
PART1 = the explanation | the textbook | the classroom | the material | the schedule | the discussion
PART2 = the examples | the questions | the slides | the students | the answers
OWN+ = helpful | useful | inspiring | engaging | fun and helpful
OWN- = confusing | tiresome | useless and tiring | unfair | stressful
PLAIN = an hour long | in the morning | about fractions | held on tuesday | on the second floor
EVENT+ = the students learned with joy | the teacher praised us | every question got a helpful answer
EVENT- = the students fell behind and felt bad | the teacher blamed us | every question got a rude answer
EVENT0 = the students sat in rows | the teacher used a map | the bell rang at three
""",
    "game": """
NOUN1 = game | puzzle | quiz | card game | board game | level | expansion | riddle | app | console
NOUN2 = games | puzzles | quizzes | levels | riddles | apps
CONTEXT = we had tested | on the computer | from the shop | with four players | about castles | for the phone
PART1 = the story | the music | the map | the manual | the screen | the tutorial
PART2 = the rules | the controls | the graphics | the pieces | the animations
OWN+ = fun | addictive but fun | exciting | playful and smart | entertaining
OWN- = unfair | broken and useless | too slow and boring | stupid | frustrating to play
PLAIN = for two players | one hour long | set in space | in a small box | made of wood
EVENT+ = we had fun until midnight | every round was a thrill | we won with a smile
EVENT- = we quit in anger | every round was a pain | it crashed and ruined the evening
EVENT0 = we started with six cards | each round took ten minutes | the blue team went first
""",
    "sport": """
NOUN1 = match | race | team | final | season | training | tournament | coach | goalkeeper | marathon
NOUN2 = matches | races | teams | players | seasons | runners
CONTEXT = we had followed | at the stadium | on the track | from the capital | in the league | under the lights
PART1 = the crowd | the referee | the passing | the grass | the commentary | the atmosphere
PART2 = the fans | the passes | the shirts | the substitutes | the tickets
OWN+ = exciting | thrilling | strong | brave and strong | energetic
OWN- = lazy | hopeless | clumsy and weak | unfair | violent
PLAIN = ninety minutes long | held on sunday | in third place | dressed in red | on the front page
EVENT+ = our team won the cup | the fans celebrated with joy | the captain was a hero
EVENT- = our team lost badly | the fans cried | the captain was injured
EVENT0 = the clock showed an hour | the fans came by bus | the captain sat on the bench
""",
    "garden": """
NOUN1 = garden | park | dog | cat | horse | flower bed | pond | tree | parrot | kitten
NOUN2 = gardens | parks | dogs | cats | horses | roses
CONTEXT = we had visited | behind the house | near the bridge | from the farm | next to the path | by the fence
PART1 = the lawn | the hedge | the scent | the bench | the fountain | the path
PART2 = the flowers | the birds | the leaves | the bushes | the colours
OWN+ = cute | gentle and friendly | healthy | peaceful | lovable
OWN- = neglected | sick | scary | filthy | aggressive
PLAIN = behind a wall | ten years old | brown and white | next to the barn | east of the river
EVENT+ = the birds sang with joy | the gardener cared for it with love | the children played happily
EVENT- = the plants died | the gardener neglected it | the children were scared
EVENT0 = the birds sat on the roof | the gardener came on monday | the leaves fell in autumn
""",
    "shop": """
NOUN1 = jacket | shop | phone | lamp | bicycle | chair | camera | watch | coat | laptop
NOUN2 = shoes | boots | gloves | shirts | headphones | chairs
CONTEXT = we had bought | in the window | from the catalogue | on the upper shelf | with the red label | from the market
PART1 = the price | the quality | the design | the packaging | the fabric | the delivery
PART2 = the colours | the buttons | the instructions | the materials | the seams
OWN+ = elegant | stylish and comfortable | useful | reliable and smart | handy and perfect
OWN- = broken | faulty and useless | damaged | overpriced and bad | uncomfortable
PLAIN = made of wool | on the left | sold in pairs | packed in paper | available in blue
EVENT+ = the seller was honest and helpful | it fit perfectly | the owner thanked us
EVENT- = the seller lied to us | it broke and was useless | the owner cheated us
EVENT0 = the seller wrapped it in paper | it came in a box | the owner opened at ten
""",
    "art": """
NOUN1 = painting | museum | sculpture | gallery | photograph | statue | exhibition | portrait | drawing | mural
NOUN2 = paintings | photographs | sculptures | statues | portraits | drawings
CONTEXT = we had seen | in the gallery | from the collection | on the wall | by the young painter | at the entrance
PART1 = the colour | the frame | the lighting | the composition | the background | the audio guide
PART2 = the lines | the shadows | the faces | the details | the rooms
OWN+ = stunning | elegant | graceful | creative | magnificent
OWN- = hideous | crude and ugly | lifeless | offensive | clumsy and poor
PLAIN = made of stone | a hundred years old | next to the stairs | painted in green | one metre tall
EVENT+ = the artist worked with passion | visitors smiled with delight | the whole room was full of joy
EVENT- = the artist failed | visitors complained | the whole room was a mess
EVENT0 = the artist lived in the north | visitors entered by the side door | the whole room was white
""",
    "work": """
NOUN1 = meeting | office | report | manager | plan | workshop | interview | deadline | contract | team lunch
NOUN2 = meetings | reports | managers | plans | workshops | interviews
CONTEXT = we had discussed | at the company | on the agenda | about the budget | for the new client \
| from the first week
PART1 = the discussion | the schedule | the software | the coffee | the salary | the feedback
PART2 = the emails | the results | the colleagues | the numbers | the desks
OWN+ = productive and friendly | helpful | efficient | rewarding | fair and honest
OWN- = stressful | chaotic | pointless | exhausting | unfair
PLAIN = on the fourth floor | two pages long | moved to thursday | sent by email | held online
EVENT+ = the boss thanked us | the team celebrated with joy | the results made us proud
EVENT- = the boss blamed us | the team argued | the results made us sad
EVENT0 = the boss arrived at nine | the team used two tables | the printer stood in the hall
""",
}
