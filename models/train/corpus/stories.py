"""Endless simple English stories for children, from a grammar: own text, so no licence applies.

A story is an opening and one of the plots. A plot is a text of four to six beats, separated by
blank lines, in the notation of `grammar.py`: [a|b|c] picks one, {slot} comes from the story's
world. {H} is the hero, {F} the friend (an animal), {Grand} someone of the hero's family; {he},
{f_he} and {gshe} and their forms are the pronouns of those three.
"""

import random
import re
from dataclasses import dataclass

from corpus.grammar import beats, expand

GIRLS = (
    "Anna Bella Clara Daisy Ella Fiona Grace Hana Iris June Kate Lina Maya Nora Olive Poppy Rosa Sofia "
    "Tess Uma Vera Wendy Zoe Amina Lucia Mei Nadia Priya Salma Yuki Ada Ruth Lily Lucy Mia Emma Amy Sara "
    "Sue Alice Molly Eva Jenny Leila Noor Marta Ines Tara"
).split()
BOYS = (
    "Adam Ben Carl David Eli Finn George Henry Ivan Jack Karim Leo Milo Noah Oscar Paul Ravi Sam Theo "
    "Umar Victor Will Yusuf Zack Hugo Kofi Diego Hiro Omar Peter Tom Max Tim Bob Luke Danny Joe Billy "
    "Nico Emil Anton Jamal Ken Mateo"
).split()
ANIMAL_NAMES = (
    "Pip Tuck Bramble Dot Fern Hazel Jasper Koko Lulu Moss Nib Otto Pepper Quill Rusty Sunny Toby Velvet "
    "Whisk Ziggy Button Clover Dusty Momo Pebble Tansy Bobo Fluff Ginger Juniper Mimi Nutmeg Patch "
    "Poppet Scout Snowy Tiki Waffle Biscuit Maple"
).split()
ANIMAL_HOMES = {
    "rabbit": "in a burrow", "fox": "in a den", "bear": "in a cave", "mouse": "in a hole",
    "duck": "in a nest by the pond", "frog": "in a pond", "hedgehog": "in a heap of leaves",
    "squirrel": "in a hollow tree", "owl": "in an old oak", "cat": "in a warm basket",
    "dog": "in a kennel", "goat": "in a shed", "pig": "in a sty", "lamb": "in a fold",
    "turtle": "by a pond", "beaver": "in a lodge", "badger": "in a burrow", "sparrow": "in a nest",
    "hen": "in a coop", "donkey": "in a stable", "mole": "in a tunnel", "otter": "by the river bank",
    "goose": "by the pond", "pony": "in a stable", "kitten": "in a barn", "puppy": "in a little kennel",
    "monkey": "in a tall tree", "deer": "among the ferns", "raccoon": "in a hollow log",
    "robin": "in the hedge", "elephant": "by the big river", "snail": "under a green leaf",
}
WILD_HOMES = ["in the deep forest", "near the river", "at the edge of the wood", "on the green hill",
              "behind the old mill", "in a quiet valley"]
CHILD_HOMES = ["in a small house at the edge of the village", "by the sea", "in a tall house in the city",
               "on a farm", "near the forest", "with {his} family in a white house",
               "in a house with a red roof", "above a bakery", "at the end of a long road"]
ADJECTIVES = (
    "little little little young small shy kind curious brave clever cheerful gentle quiet lively careful "
    "playful happy friendly funny busy dreamy sweet"
).split()
PLACES = {  # where the story plays, and where in that place a thing or a sitter may be hidden
    "park": "under a bench", "garden": "behind the roses", "forest": "under a fern",
    "beach": "behind a rock", "meadow": "in the tall grass", "farm": "beside the barn",
    "river": "between the reeds", "hill": "at the foot of an old tree", "lake": "near the wooden bridge",
    "market": "under an apple cart", "village square": "beside the fountain",
    "orchard": "under a pear tree", "field": "next to the scarecrow", "old mill": "behind the big wheel",
    "pond": "among the water lilies", "playground": "under the slide", "harbor": "behind a pile of nets",
}
COLORS = "red blue green yellow white brown purple orange silver golden pink black gray".split()
THINGS = (
    "ball kite boat drum hat scarf whistle lantern top doll bucket kazoo flute bell ribbon book spoon "
    "wagon umbrella button balloon teddy puppet marble basket cup"
).split()
BAKED = ["cake", "apple pie", "loaf of bread", "plum tart", "honey cake", "berry pie", "carrot cake"]
FOODS = BAKED + ["basket of berries", "plate of cookies", "jar of honey", "bag of nuts", "bunch of grapes",
                 "bag of cherries", "basket of pears", "piece of cheese", "pot of porridge"]
FINDS = ["a silver key", "a small wooden box", "a blue feather", "a shiny stone", "an old map", "a tiny bell",
         "a glass bottle with a letter inside", "a golden button", "a smooth white shell", "a rusty lamp",
         "a ring with a green stone", "a silver spoon", "a little clay horse"]
WEATHER = ["The sun was [shining|warm] and the sky was blue.", "It was a windy day, and the leaves danced.",
           "The air was cool and fresh.", "White clouds sailed over the hills.",
           "It had rained in the night, and everything smelled sweet.", "Birds were singing in every tree.",
           "The grass was still wet with dew.", "It was warm, and the bees were busy.",
           "A soft wind blew.", "There was not a cloud in the sky.", "Far away, a bell was ringing.",
           "The sun came out from behind a cloud.", "Yellow leaves lay on the ground."]
RIDDLES = [  # question and answer
    ('"[What has|Tell me, what has] hands but cannot hold anything?"', '"A clock," {he} said.'),
    ('"What gets wetter the more it dries?"', '"A towel," {he} said.'),
    ('"What has teeth but never eats?"', '"A comb," {he} said.'),
    ('"What goes up but never comes down?"', '"My age," {he} said. "I get older every year."'),
    ('"What has a neck but no head?"', '"A bottle," {he} said.'),
    ('"What can you catch but never throw?"', '"A cold," {he} said.'),
    ('"What runs all day but never gets tired?"', '"A river," {he} said.'),
    ('"What is full of holes but still holds water?"', '"A sponge," {he} said.'),
    ('"What has four legs but cannot walk?"', '"A table," {he} said.'),
    ('"What follows me all day and leaves me at night?"', '"Your shadow," {he} said.'),
    ('"I have {n1} [apples|nuts|eggs], and I find {n2} more. How many have I now?"',
     '"You have {n3}," {he} said.'),
]
NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen"
).split()
ELDERS = [("Grandma", "f"), ("Grandpa", "m"), ("Mother", "f"), ("Father", "m"), ("Mom", "f"), ("Dad", "m"),
          ("Mama", "f"), ("Papa", "m"), ("Aunt Rose", "f"), ("Uncle Ned", "m")]

PHRASES = {  # slots with the same text in every story: each use makes its own choices
    "Day": "[One day|One morning|One sunny day|One fine morning|One afternoon|Early one morning|One Saturday"
           "|One spring day|One Sunday|One bright morning|One autumn day|One quiet afternoon]",
    "day": "[one day|one morning|one rainy afternoon|one Sunday]",
    "happy": "[{H} was very happy|{H} smiled from ear to ear|{H} jumped for joy|{H} laughed out loud"
             "|{H} clapped and danced|{H} felt warm inside|{H} was so glad|{H} could not stop smiling]",
    "sad": "[{H} began to cry|{H} felt very sad|Tears ran down {his} face|{H} sat down and sighed"
           "|{H} did not know what to do|{H} felt like crying|{H} hung {his} head"
           "|{His} eyes filled with tears]",
}
ONCE_OPENINGS = [
    "Once upon a time, there was a little {kind} named {H}.",
    "Once upon a time, there was a {adj} {kind} named {H}.",
    "Once upon a time, there was a {adj} {kind}. [{His} name was {H}.|Everyone called {him} {H}.]",
    "Once upon a time, there was a {adj} {kind} named {H} who lived {home}.",
    "Once upon a time, there was a {kind} [called|named] {H}. {He} lived {home}.",
    "Once upon a time, {home}, there lived a {adj} {kind} named {H}.",
    "Once upon a time there was a {adj} {kind} called {H}.",
]
OTHER_OPENINGS = [
    "There was once a {adj} {kind} called {H}.",
    "{H} was a {adj} {kind} who lived {home}.",
    "{H} was a {adj} {kind}. [{He} lived {home}.|]",
    "Long ago, a {adj} {kind} named {H} lived {home}.",
    "Long, long ago there was a {kind} named {H}.",
    "This is a story about a {adj} {kind} named {H}.",
    "A {adj} {kind} named {H} lived {home}.",
    "Do you know {H}, the {adj} {kind}? {He} lived {home}.",
    "{home_first} lived a {adj} {kind}. {His} name was {H}.",
]
TRAITS = ("[{He} liked to sing.|{He} had bright eyes and a big smile.|{He} asked many questions every day."
          "|{He} loved stories.|{He} liked to be outside.|{He} always woke up early.|{He} loved the rain."
          "|{He} could whistle like a bird.|{He} liked sweet things.]")
ONCE_SHARE = 0.55
TRAIT_SHARE = 0.25
DAY_OPENING_SHARE = 0.2
SAME_PARAGRAPH_SHARE = 0.6
JOIN_SHARE = 0.35
THE_END_SHARE = 0.12
CHILD_HERO_SHARE = 0.55
OWN_HOME_SHARE = 0.6

PLOTS = [
    # a lost thing
    """
{H} had a {color} {thing}, and {he} loved it more than anything [else|in the world]. [{He} took it
everywhere.|{He} even slept with it at night.|{Grand} had given it to {him}.]

{Day} {H} went to the {place} to play. {weather} [{He} ran and jumped until {he} was tired.|{He} played
there for a long time.] But when {he} wanted to go home, the {thing} was gone!

"Oh no! Where is my {thing}?" [cried|said] {H}. {He} looked [high and low|here and there|in every
corner], but {he} could not find it. {sad}.

Just then {F} the {fkind} came by. "[Why are you sad|What is wrong|Why are you crying], {H}?" asked {F}.
"I lost my {color} {thing}," said {H}. "[Do not worry|Don't cry|Cheer up]," said {F}. "[I will help
you|We will find it together|Let us look for it together]."

They looked [by the gate|near the path|along the wall]. It was not there. They looked [on the
steps|behind the fence|under the bushes]. It was not there. Then {F} looked {hiding}. "[Here it is|I see
it|Look]!" {F} shouted. "[Here is your {thing}|I found your {thing}]!"

{happy}. "[Thank you|Thank you so much|Oh, thank you], {F}!" {he} said. "[You are a [good|true|real]
friend|What would I do without you|You have sharp eyes]." [From that day on, {H} always kept the {thing}
close.|Then they played together until the sun went down.|And the two friends walked home side by side.]
""",
    # a broken thing
    """
{Day} {H} was playing [inside the house|at home|near the table]. {Grand} had a [beautiful|lovely|fine]
{color} [vase|jug|bowl|teapot|plate], and {he} [had been told|knew] not to touch it. But {he} wanted to
see it up close.

{H} reached up. [Crash!|Smash!|Bang!] It fell to the floor and broke into [many|three|a hundred] pieces.
{H}'s heart beat fast. "[Oh no|Oh dear]! What will {grand} say?" {he} [thought|whispered].

First {he} wanted to hide the pieces [under the bed|behind the door|in a box]. But {he} felt [a heavy
stone in {his} belly|bad inside|that it was not right]. So {H} [took a deep breath|stood up straight]
and went to {grand}.

"{Grand}, I broke it," {he} said [softly|in a small voice]. "I am [very |so ]sorry." {Grand} [looked at
the pieces|was quiet for a moment]. Then {gshe} [gave {him} a hug|took {his} hand|smiled]. "Thank you
for telling me the truth," {gshe} said. "[Things can be mended|A thing is only a thing], but [trust is
worth more than gold|the truth is precious]."

Together they [found some glue and put the pieces back|mended it piece by piece]. It was not [perfect|as
good as new], but it was [even more special|dear to them both]. {H} learned that it is [always best to
be honest|brave to tell the truth|good to say sorry].
""",
    # sharing food
    """
{Day} {H} had a [big |fine |lovely |]{food}. It smelled [wonderful|so good|sweet]. {H} wanted to eat it
all [by {himself}|alone].

On the way to the {place}, {he} met {F} the {fkind}. {F} looked [hungry|tired and hungry|pale and sad].
"I have not eaten [all day|since yesterday]," said {F}. "[My cupboard is empty|I could not find any
food]."

{H} looked at the {food}. {He} was hungry too. {He} thought and thought. Then {he} [said|smiled and
said], "[Sit down with me|Come and sit here]. There is [enough for two|plenty for both of us]."

So they sat {hiding} and shared the {food}. [It tasted even better that way.|They ate every bit of
it.|Food tastes best with a friend.] "Thank you, {H}," said {F}. "[You are very kind|You have a good
heart]."

The next [day|week|winter], it was {H} who had nothing to eat. Then there was a knock at the door. It
was {F}, with [a basket full of food|a big bag of nuts and apples|hot soup and bread]! "You shared with
me," said {F}, "and now I share with you." {happy}. {H} learned that [kindness comes back|those who
share are never poor].
""",
    # a new friend
    """
{H} did not have many friends. [{He} was too shy to speak.|{He} had just moved to a new home.|{He} did
not know what to say to others.] Every day {he} sat alone at the {place} and watched the others play.

{Day} a [new|strange] {fkind} came to the {place}. [Its|The {fkind}'s] name was {F}. {F} was alone too.
{F} was [carrying|holding] a {color} {thing}, and it fell right at {H}'s feet.

{H} picked it up. {His} heart went [thump, thump|pit-a-pat]. "[Is this yours?|I think this is yours.]"
{he} asked [in a small voice|quietly]. "[Yes, thank you|Oh, yes]!" said {F}. "Do you want to play with
me?"

{H} nodded. They played [catch|hide and seek|tag|pirates] [all day|all afternoon|until evening]. They
laughed so much that [their bellies hurt|the birds flew up]. {weather}

When it was time to go home, {F} said, "[Will you come back tomorrow|Shall we play again tomorrow]?"
"[Yes|Of course]!" said {H}. {He} was not shy any more. [A friend had been waiting for {him} all
along.|Sometimes one small word is enough to make a friend.]
""",
    # a hurt bird
    """
{Day} {H} was walking near the {place} when {he} heard a [small|sad|tiny] sound. [Cheep, cheep!|Peep,
peep!] {He} looked {hiding}. There lay a little bird. Its wing was hurt, and it could not fly.

"[Poor bird|You poor thing]," said {H}. "[Do not be afraid|I will help you]." {He} picked it up [very
gently|with both hands] and carried it home. {Grand} [made a soft bed in a box|wrapped the wing with a
strip of cloth|gave it water and crumbs].

Every day {H} fed the bird [seeds and water|crumbs and berries]. [Every night {he} sang to it.|It grew
stronger and stronger.] After [one week|two weeks|ten days|many days], the bird [could hop|began to flap
its wings].

At last {H} took the bird back to the {place}. "[Now you can fly|Time to go home]," {he} said. {He} felt
[sad and glad at once|a little sad]. The bird [sang a song|looked back once] and flew [up, up, up into
the sky|over the trees].

But [every morning|every spring] after that, the bird came to {H}'s window and sang. It had not
forgotten [its friend|who had helped it].
""",
    # a fear
    """
There was only one thing that {H} did not like. {He} was afraid of [the dark|deep water|thunder|high
places|the big dog next door|spiders|tunnels]. [The others laughed at {him}.|{He} never told anyone
about it.]

{Day} {F} the {fkind} [called|cried] from the {place}: "Help! [I am stuck|I cannot get out|I have hurt
my foot]!" {H} [stopped|stood still]. To get there, {he} had to [face the thing {he} feared most|go all
alone].

{His} knees were shaking. "[I am afraid|I am scared]," {he} [said to {himself}|whispered], "but my
friend needs me." {He} closed {his} eyes, counted to three, and [went|ran|took the first step].

[Step by step|Little by little], {H} came closer. [It was not as bad as {he} had thought.|The fear grew
smaller and smaller.] At last {he} reached {F} and [pulled {f_him} out|took {f_his} hand]. "You came!"
said {F}. "[You are so brave|I knew you would come]."

"I was afraid," said {H}. {F} [smiled|laughed]. "[Being brave does not mean you are not afraid|That is
what brave means]," {f_he} said. "[It means you go anyway|You were afraid and you came anyway]." That
night {H} slept [well|without a worry].
""",
    # a race
    """
{F} the {fkind} was very fast, and {f_he} [told everyone about it|was very proud of it]. "Nobody can run
like me," {f_he} said [every day|again and again]. {H} was [slow|not fast at all], but {he} never gave
up.

{Day} they had a race to the {place}. [All the neighbors came to watch.|Everyone came to see it.] "One,
two, three, go!" {F} ran like the wind. {H} walked [step by step|slowly and steadily].

Soon {F} was far ahead. "[I have so much time|This is too easy]," {f_he} laughed. "I will [take a
nap|eat some berries|rest a while]." So {f_he} lay down {hiding} and [closed {f_his} eyes|fell asleep].

{H} did not stop. {He} went on and on. {He} passed {F} [without a sound|on tiptoe]. When {F} woke up,
the sun was [low|going down]. {F} ran as fast as {f_he} could, but it was too late. {H} was already
there!

Everyone [cheered|clapped] for {H}. {F} [hung {f_his} head|blushed]. "[You won fairly|Well done]," said
{F}. "[I will not boast again|I should not have laughed]." "[Let us walk home together|Come, let us
share the prize]," said {H}. And they did.
""",
    # a storm
    """
{Day} {H} and {F} the {fkind} went for a [long walk|picnic] at the {place}. They took a {food} with
them. {weather}

Suddenly [dark clouds came over the hill|the sky turned gray|a cold wind began to blow]. [Boom! went the
thunder.|Drip, drop! Big drops of rain fell.|The rain fell harder and harder.] "We must find a dry
place," [said|called] {H}.

They ran [as fast as they could|through the rain]. {F} saw [a small cave|an old hut|a hollow tree|a wide
roof]. "[In here|Quick, come in]!" They sat [close together|side by side] and shared the {food}. [They
told stories to pass the time.|They sang songs, and the storm did not seem so loud.]

After a while, the rain stopped. The sun came out. "Look!" said {F}. [Over the {place} there was a
rainbow.|A big rainbow stood over the {place}.] It was red and orange and yellow and green and blue.

"[The storm was not so bad after all|Without the rain there would be no rainbow]," said {H}. They walked
home through the puddles, [splash, splash, splash|laughing all the way].
""",
    # cooking
    """
{Day} {H} wanted to make a {baked} for {grand}. {He} looked in the kitchen. [There was flour and there
was milk, but there was no honey.|{He} had butter and milk, but no eggs.|Everything was there except the
sugar.]

So {H} went to {F} the {fkind}. "[May I have a little, please|Can you help me]?" {he} asked. "[Of
course|Gladly]," said {F}, "if you [help me sweep the floor|bring in some wood|water my flowers] first."
{H} worked [hard|quickly], and {F} gave {him} what {he} needed.

Back in the kitchen, {H} [stirred and stirred|mixed everything in a big bowl]. [Some of it went on the
floor.|There was flour on {his} nose.] Then {he} put it in the [hot ||little ]oven and waited. Soon the
whole house smelled [sweet|wonderful].

When {grand} came home, {gshe} [stopped at the door|could not believe {g_his} eyes]. "[What is that
lovely smell|Did you make this]?" {gshe} asked. "[It is for you|I made it all for you]," said {H}. {F}
came too, and they ate [together|every crumb].

"This is the best {baked} I have ever had," said {grand}, "because [you made it with love|it was made by
friends]." {happy}.
""",
    # lost in the forest
    """
{Day} {H} followed [a yellow butterfly|a {color} butterfly|a white feather in the wind|a path {he} did
not know] deep into the [dark |big |old |]forest. [{He} walked and walked.|{He} did not look back.] When
{he} stopped, every tree looked the same. {H} was lost!

{sad}. The forest was [dark|quiet|big], and it was getting late. Then {he} heard a [voice|soft voice].
"[Who is there|Who is crying]?" It was an old {fkind} named {F}.

"I cannot find my way home," said {H}. "[Did you pass a river|What did you see on the way]?" asked {F}.
{H} thought hard. "[I passed a broken bridge|I saw a tall white stone|I walked by a tree with red
apples]," {he} said. "[Good|Very good]!" said {F}. "[Then I know the way|Follow me]."

They walked [under the moon|by the light of the stars] until they came to [the edge of the forest|the
last trees]. From there {H} could see [a light in the window|the smoke of {his} own house|the roof of
{his} home]. {Grand} was standing at the door. "{H}! [There you are|I was so worried]!"

{H} hugged {grand} and thanked {F}. [After that {he} never went into the forest alone.|From then on,
{he} always looked well at the path.] And {F} was invited to [supper|tea] every Sunday.
""",
    # a seed
    """
{Day} {Grand} gave {H} a [tiny|small] brown seed. "[Take good care of it|Plant it and wait]," {gshe}
said. {H} made a hole in the ground, put in the seed, and [gave it water|covered it with earth].

The next morning {H} ran to look. There was nothing. The day after, there was nothing. "[It does not
grow|Maybe it is broken]," {he} said. "[Wait|Be patient]," said {grand}. "[Good things take time|It is
working under the ground]."

So {H} watered it every day. [{He} sang to it.|{He} pulled out the weeds.|{He} kept the hens away.] One
morning there was a [small green leaf|tiny green tip]! It grew [taller and taller|up to {his} knee, and
then to {his} nose].

By the end of summer it was [a sunflower as tall as the house|a bush full of berries|a vine with three
big pumpkins|a little tree with one red apple]. {F} the {fkind} came to see it. "How did you do that?"
asked {F}.

"[With water and sun|A little every day]," said {H}, "and [a lot of waiting|by not giving up]." Then
{he} gave {F} a seed [of {f_his} own|to plant at home|too].
""",
    # something found
    """
{Day} {H} was digging near the {place} when {he} found {find}. [It was covered with mud.|It sparkled in
the sun.] "[I wonder whose it is.|What can this be?]" {he} said.

{He} showed it to {F} the {fkind}. "[You could keep it|Now it is yours]," said {F}. "No," said {H}.
"[Somebody must be looking for it|It belongs to someone]." So they went from house to house. They asked
[the baker|the miller], and [the farmer|the teacher], and [the old woman at the well|the man with the
cart]. Nobody had lost it.

At the last house lived [an old sailor|an old king who had no crown|a lonely old man|a very old lady].
When the old one saw it, [tears came|there was a great smile]. "I lost that [when I was young|fifty
years ago|long, long ago]," came the answer. "[I thought I would never see it again|It was a gift from
my mother]."

As thanks, {H} and {F} got [a bag of sweet nuts and a story about the sea|two cups of cocoa and a ride
in the cart|a puppy|a small boat of their own]. [They thanked the old one again and again.|They had
never been so pleased.]

"[You were right to give it back|I am glad we gave it back]," said {F} on the way home. And {H} thought
so too. [An honest heart is the best treasure.|Sometimes giving is better than keeping.]
""",
    # a forgotten birthday
    """
It was {H}'s birthday, but nobody said a word about it. {Grand} was [busy|not at home]. {F} the {fkind}
[walked past without a smile|had no time to play]. "[Did they all forget|Does nobody remember]?" thought
{H}.

{H} went to the {place} and sat down {hiding}. {sad}. {weather}

When the sun was low, {F} came [running|hopping]. "{H}, come quickly! [I need your help|Something is
wrong at your house]!" {H} jumped up, and they ran [all the way|together].

The house was dark. {H} opened the door. "Surprise!" [everybody shouted|they all called]. There were
lights and songs, and on the table stood a [big|huge|sweet|round] cake with [four|five|six|seven|eight]
candles. {Grand} gave {him} a {color} {thing}.

"You did not forget!" said {H}. ["How could we forget?"|"Never!"] laughed {F}. {H} blew out the candles
and made a wish. [But {he} did not need a wish, for {he} had everything.|It was the best birthday of
all.]
""",
    # a greedy one
    """
{H} was [very greedy|always hungry for more]. When {he} had one apple, {he} wanted two. When {he} had
two, {he} wanted ten.

{Day} {he} found a tree at the {place} that was full of [golden pears|sweet plums|red cherries]. {F} the
{fkind} was there as well. "[Take what you need|Take only what you can carry]," said {F}. "[Leave some
for the others|The tree is for all of us]."

But {H} did not listen. {He} filled {his} pockets. {He} filled {his} hat. {He} filled a [big|heavy] sack
until it was as tall as {himself}. Then {he} tried to [lift it|pull it home]. [Rip!|Crack!] The sack
broke, and all the fruit rolled [down the hill and into the river|into the mud].

Now {H} had nothing at all. {He} [looked at {his} empty hands|sat in the grass and was ashamed]. {F}
came and [sat beside {him}|put down a small basket]. "[Here|Look]," said {F}. "I took only a few. [You
can have half|Let us share them]."

{H} ate slowly. The fruit was [sweeter than any {he} had eaten|very sweet]. "[Enough is better than too
much|I will not be greedy again]," {he} said. And {he} kept {his} word.
""",
    # crying wolf
    """
{H} looked after the [sheep|cows|horses] near the {place}. It was [dull|quiet] work, and {he} was bored.
"[I will play a trick|Let me have some fun]," {he} thought. {He} shouted, "Help! Help! A wolf!"

{F} the {fkind} and all the neighbors came running [with sticks|out of breath]. But there was no wolf.
{H} [laughed and laughed|rolled in the grass with laughter]. The next day {he} did it again. And again
they came, and again there was no wolf. "That is not funny," said {F}.

On the third day a real wolf came out of the trees. It was [big and gray|hungry and thin|as gray as a
stone]. "Help! Help! A wolf!" {H} cried. But this time nobody came. [They thought it was a trick.|"It is
only another joke," they said.]

{H} had to [climb a tree|hide behind a wall] and watch while the animals ran away in all directions. [It
took all night to find them.|Only in the evening did the wolf go away.] {F} [found {him} there|came at
last with a lantern].

"I called, but nobody came," said {H}. "[When you lie, people do not believe you even when you tell the
truth|You lied twice, so we could not believe you]," said {F} [gently|sadly]. {H} was sorry, and {he}
never lied again.
""",
    # the giant turnip
    """
{H} planted a [turnip|carrot|beet|radish|pumpkin root] in the garden. It grew and grew until it was [as
big as a cow|as big as a house|bigger than {H}].

{Day} {H} wanted to pull it out. {He} pulled and pulled, but it did not move. {He} called {grand}.
{Grand} held {H}, and {H} held the leaves. They pulled and pulled, but it did not move.

Then came {F} the {fkind}. {F} held {grand}, {grand} held {H}, and {H} held the leaves. They pulled and
pulled, but still it did not move. "[We need one more|We are almost strong enough]," said {F}.

Just then a [tiny|very small] [ant|beetle|ladybug|cricket] came by. "[May I help?|Let me try!]" it said.
[Everybody laughed.|"You are too small," said {F}.] But it took hold, and they all pulled together. One,
two, three, pop! Out it came, and they all fell [down in a heap|on their backs].

That evening there was [soup|stew|a feast] for everybody. The small one got the [first|biggest] bowl.
"[Nobody is too small to help|Together we are strong]," said {H}.
""",
    # building again
    """
{Day} {H} and {F} the {fkind} built a [castle of stones|hut of branches|little house of sticks|fort of
logs] at the {place}. It took [all morning|many hours]. [It had a tall tower and a flag.|It was the best
they had ever made.]

Then [a strong wind|a heavy rain|a clumsy cow] came, and [crash|whoosh|bang]! [Everything fell
down.|Nothing was left of it.] {F} was angry and [kicked the ground|threw away {f_his} hat]. "[I will
never build anything again|It was all for nothing]!" said {F}.

{H} was sad too, but {he} [looked closely at what was left|thought for a while]. "[Now we know what was
weak|We have learned something]," {he} said. "This time we will [use stones at the bottom|make the walls
thicker|tie it with rope|build it a little higher up]."

So they began again. [{F} carried stones and {H} put them in place.|{H} dug and {F} carried.] They
worked until evening. Then trouble came once more, but this time [their work stood firm|nothing moved]!

"[Hurrah|We did it]!" shouted {F}. "[The second one is even better|I am glad we tried again]." "[That is
why we try again|If it falls, we build it better]," said {H}.
""",
    # a star's wish
    """
{H} could not sleep. {He} lay in bed and looked out of the window at the [stars|moon|night sky]. One
star was brighter than all the others. "Star," {he} whispered, "I wish [I could fly|I had a friend|it
would snow|I could see the sea]."

All at once there was a [soft light|silver light] in the room. A tiny {fkind} made of light sat on the
bed. "I am {F}," it said. "[I heard your wish|You called me]. [Hold my hand|Close your eyes]."

[Whoosh!|In a blink] they were [high above the roofs|up among the clouds]. The {place} below looked [as
small as a toy|like a picture in a book]. {H} saw [rivers like ribbons|ships with little lamps|sheep
sleeping like snow]. "[It is beautiful|I never want to stop]!" said {H}.

When the sky grew [pale|pink], {F} said, "Now it is time to go home. [But remember|Never forget]:
[whoever looks up is never alone|there is a little light in everyone]." Then {F} was gone.

In the morning {H} thought that it had been a dream. But on the [pillow|window] lay a small [silver
feather|shining stone]. {H} [put it in a box|smiled] and told only {grand}.
""",
    # practice
    """
{H} wanted to [swim|ride a bicycle|play the flute|skate|whistle|climb the big tree] like {F} the
{fkind}. {F} made it look [so easy|like nothing]. But when {H} tried, it [went wrong|did not work at
all]. [It was much harder than it looked.|The others giggled.|{H} got hot cheeks.]

"I cannot do it," said {H}. "You cannot do it yet," said {F}. "[I got it wrong a hundred times|I was no
good at first|It took me a whole year]. [Try again|Practice a little every day]."

So {H} went to the {place} every day. On Monday it was bad. On Tuesday it was [a little|no] better. On
Wednesday {he} wanted to give up, but {grand} said, "[Once more|One more time]!" On Thursday it was
[almost good|better].

And on Friday, all of a sudden, it worked! "[Look, look|I can do it]!" [shouted|cried] {H}. {F}
[cheered|clapped {f_his} hands]. {weather}

{happy}. Now {he} knew the secret: [a little practice every day|nobody is good at the start|mistakes are
a part of learning]. The next week {he} began to teach [a small friend|the youngest one in the village].
""",
    # a chain of trades
    """
{H} had only a [small|plain] {thing}. {Day} {he} met a [farmer|girl|boy] who [needed one|liked it very
much]. "I will give you [an egg|a hen's egg] for it," said the stranger. So {H} gave away the {thing}
and got an egg.

Then {he} met a baker. The baker had no eggs. "Give me the egg and I will give you a {food}," said the
baker. So {H} gave the egg and got a {food}.

Then {he} met {F} the {fkind} at the {place}. {F} was [so hungry|weak with hunger]. "[Please give me a
bite|May I have some]?" asked {F}. {H} gave {f_him} the whole {food}, and asked for nothing.

{F} ate and felt well again. "[You asked for nothing|You gave all you had]," said {F}, "so I will give
you [the best I have|something special]." {F} led {him} {hiding}, and there stood [a little cart|a gray
pony|a small boat|a wooden chest].

"It is yours," said {F}. {H} could not believe it. [In the morning {he} had a {thing}, and in the
evening {he} had a friend and much more.|{He} went home singing.] {Grand} laughed and said, "[That was a
good day's trade|Kindness is the best trade]!"
""",
    # a sick friend
    """
{Day} {F} the {fkind} did not come out to play. {H} knocked at the door. "[Come in!|Who is there?]" said
a weak voice. {F} was in bed with a [bad cold|sore throat|hot head]. "[I cannot play today|I feel
awful]," said {F}.

"[Then I will stay with you|I will look after you]," said {H}. {He} made [hot tea with honey|a pot of
soup] and opened the window. {He} read a story about [a dragon who was afraid of mice|a whale who wanted
to fly|a king who lost his shoes].

{F} laughed, and [then coughed|then sneezed], and then laughed again. [{H} brought a {color} {thing} to
cheer {f_him} up.|{H} drew a funny picture.] Soon {F} fell asleep, and {H} sat [quietly|very still]
beside the bed.

On the third day {F} was [well again|much better]. They went to the {place} together. {weather} But then
{H} [sneezed|began to sneeze]. "Achoo!"

"Oh dear," said {F}. "Now it is my turn to make the [soup|tea]." And [that is what friends are for|they
both laughed].
""",
    # a riddle
    """
To get to the {place}, {H} had to cross a [bridge|gate|narrow path]. There sat {F}, an old {fkind} with
[white whiskers|a long beard|small round glasses]. "[Nobody may pass unless|You may pass only if] you
can answer my riddle," said {F}.

"[Ask me|I am ready]," said {H}. {riddle_q}

{H} thought [for a long time|hard]. {He} looked at [the sky|the ground|{his} feet]. Then {he} smiled.
{riddle_a}

"[Right|That is right]!" said {F}, and [was very surprised|laughed with joy]. "[Nobody has guessed that
for a hundred years|You are cleverer than you look]. You may pass."

{H} [bowed|said thank you] and went on. But the next day {he} came back, not to cross, but to [hear
another riddle|ask {F} a riddle]. For {he} had seen that {F} was lonely. [And so they became
friends.|From that day on they met every week.]
""",
    # a letter
    """
{Day} {H} found a letter under the door. [It had a {color} stamp.|It smelled of flowers.|The writing on
it was very small.] It said: "[Come to the {place} soon|Please come to the {place} today]. [I have
something for you|There is a surprise for you]." But there was no name on it!

"[Who can it be from|Who wrote this]?" {H} asked {grand}. "[I wonder|I do not know]," said {grand}, and
{gshe} [smiled a little|looked out of the window]. So {H} put on {his} [hat|scarf|boots] and set off.

At the {place} there was nobody. {H} waited and waited. {weather} Then {he} looked {hiding}, and there
was [a second letter|another letter]! "[You are very close|Almost there]," it said. "[Turn around|Look
behind you]."

{H} turned around. There stood {F} the {fkind} with a {color} {thing}. "[It was me|I wrote the
letters]!" said {F}. "I have just learned to write, and you [are the first one I wrote to|get my very
first letter]."

{happy}. That evening {he} [sat down|took a pencil] and wrote a letter too. It was [short|not long].
"Dear {F}, [thank you for being my friend|your letter was the best part of my day]. {H}."
""",
    # the first snow
    """
{H} had never seen snow. "[What is it like|Is it cold]?" {he} asked. "It is [white and soft|like
feathers from the sky]," said {grand}. "[Wait until winter|Wait a little], and you will see."

One morning it was very [quiet|still] outside. {H} looked out of the window. Everything was white! [The
roofs were white.|The trees had white hats.|The path was gone.] "{Grand}! {Grand}! [It is snowing|The
snow is here]!" {he} [called|shouted].

{H} put on {his} {color} [scarf|coat|hat] and ran to the {place}. {F} the {fkind} was there already.
They [caught snowflakes on their tongues|threw snowballs|slid down a little hill]. Then they made a
[big|round|funny] snowman. "He needs a nose," said {F}. {H} [ran home and came back with a carrot|found
a long red carrot].

When their [hands|feet|noses] were cold, they went inside. {Grand} gave them [hot milk|hot soup|warm
cocoa], and they sat by the fire. Outside, the snowman [stood in the moonlight|looked in at the window].

"Will he be here tomorrow?" asked {H}. "[Yes, and the next day too|As long as it is cold]," said
{grand}. {H} [fell asleep with a smile|dreamed of snow all night].
""",
    # a lost tooth
    """
{H} had a loose tooth. It went [this way and that way|left and right|back and forth]. {He} [showed it to
everyone|touched it all day]. "When will it come out?" {he} asked. "[When it is ready|Very soon]," said
{grand}.

{Day} {H} bit into [an apple|a pear|a piece of bread]. [Pop!|Crack!] "My tooth!" {he} cried. There it
was, small and white. {H} ran to the {place} to show it to {F} the {fkind}. But on the way {he}
[tripped|fell over a root], and the tooth was gone.

{sad}. "[Now nobody will believe me|My first tooth is lost]," {he} said. {F} came and [listened|sat down
next to {him}]. "We will look for it," said {F}. They [crawled in the grass|looked under every leaf].
{weather}

"[What is that?|Look there!]" said {F} at last. Something small and white lay {hiding}. It was [a tiny
stone|a little shell]. Next to it lay the tooth! {H} [held it tight|put it in {his} pocket] and did not
run any more.

That night {H} put the tooth [under the pillow|in a little box by the bed]. In the morning there was [a
shiny coin|a {color} marble|a tiny {color} {thing}] in its place. {H} [showed it to {F}|smiled], and
everyone could see the gap in {his} smile.
""",
    # a night with stars
    """
{Day} {H} and {F} the {fkind} wanted to [count the stars|sleep under the stars]. They took a
[warm|thick] blanket and a {food}, and they went to the {place}. [{Grand} gave them a small
lamp.|{Grand} said, "Stay close together."]

First the sky was [pink|red], then it was [dark blue|gray], and then it was black. One star came out.
Then another. Then there were [hundreds|so many]! "One, two, three, four, five," counted {H}. "[You
counted that one twice|I lost count]," said {F}, and they laughed.

Something made a noise in the dark. [Hoo, hoo!|Rustle, rustle.|Crack!] "What was that?" whispered {F}.
{H} was afraid too, but {he} [lifted the lamp|took {f_his} hand]. Two round eyes looked at them. It was
only [a tiny owl|a small mouse|a baby hedgehog]! It was [hungry|lonely], so they gave it [a crumb|a
bite] to eat.

Then a star fell across the sky. "[Quick, make a wish|A wish, a wish]!" said {H}. They both [closed
their eyes|were quiet]. "What did you wish for?" asked {F}. "[I cannot tell you|It is a secret]," said
{H}. "But I think it [has come true|is already here]."

In the morning {grand} found them [fast asleep|side by side under the blanket]. [The lamp was still
burning.|The sun was on their faces.|Dew was on the blanket.] "[Good morning, star counters! Did you
count the stars?|How many were there?]" {gshe} asked. "[Too many|All of them]!" said {H}.
""",
    # market day
    """
{Day} {grand} gave {H} [three|five|four] coins. "Go to the market and buy [eggs|milk|flour|butter],"
{gshe} said. "[Do not lose the coins|Hold them tight]." {H} was [proud|very proud]. It was the first
time {he} went alone.

The market was [loud and full of people|full of colors]. There were [cherries and plums|apples and
pears], [hats and shoes|pots and pans], and a man who [played the flute|sold balloons]. Then {H} saw a
{color} {thing}. "[Only two coins|Very cheap]!" said the man. {H} wanted it so much.

{He} put {his} hand in {his} pocket and [felt the coins|thought for a moment]. Just then {F} the {fkind}
[came by|ran past, crying]. "[My basket fell in the mud|Someone stepped on my basket], and all my
[bread|plums] got dirty," said {F}. "Now I [have nothing to sell|cannot go home]."

{H} forgot the {thing}. {He} [helped {F} to wash everything|held the basket and washed it at the well],
and soon people came to buy. "[Without you I would have sold nothing|You saved my day]," said {F}.
"[Take this coin|Here is a coin for you]."

{H} bought what {grand} wanted, and with [the last coin|the coin from {F}] {he} bought [a sweet bun to
share|a flower for {grand}]. "[You did very well|I knew you could do it]," said {grand} when {he} came
home.
""",
    # the old neighbor
    """
Next to {H} lived an old {fkind} named {F}. {F} [walked with a stick|could not see well|had a sore
back]. {H} [often saw {f_him} in the garden|waved to {f_him} every morning].

{Day} the {color} [gate|door] next door stayed closed. [No smoke came from the roof.|Nobody watered the
flowers.] "[Something is wrong|That is strange]," said {H}. {He} [knocked|knocked three times]. "[Come
in|It is open]," said a [weak|tired] voice. {F} had [hurt {f_his} foot|a bad cold] and could not get up.

"[I can help you|Tell me what to do]," said {H}. {He} [swept the floor|brought in the wood], [fed the
hens|watered the flowers], and made [tea|soup]. {Grand} sent a {food}. [Every day after that, {H} came
back.|{H} came again the next day, and the next.]

While {he} worked, {F} told {him} stories about [the sea|kings and queens|the days of long ago|a ship
with golden sails]. {H} [listened with big eyes|forgot the time]. {weather}

When {F} was well again, {f_he} gave {H} [an old book full of pictures|a {color} {thing}]. "[This is for
you|I had this when I was little]," {f_he} said. "[You came to help, and you became my friend|I have the
best neighbor in the world]." {happy}.
""",
    # a quarrel made up
    """
{H} and {F} the {fkind} were [best|good] friends. They [did everything together|played together every
day]. But {day} they both wanted the same {color} {thing}. "[It is mine|I want it]!" said {H}. "[No, it
is mine|But I saw it first]!" said {F}.

They pulled and pulled. [Rip!|Crack!|Snap!] The {thing} broke in two. "[Now look what you did|That is
your fault]!" said {F}. "[I will never play with you again|Go away]!" said {H}. They both went home
[without a word|angry].

The next day {H} went to the {place} alone. {He} [threw stones|sat {hiding}], but it was [no fun|very
dull]. "[It is too quiet here|I miss {F}]," {he} thought. {Grand} said, "[One of you must go first|Sorry
is a small word, but it opens big doors]."

So {H} took [some glue and some string|{his} half of the {thing}] and [walked|ran] to see {F}. But half
way, {he} met {F} on the path! {F} had [the other half|a needle and some glue] with {f_him}. "I am
sorry," they said, both at the same time. Then they [had to laugh|hugged].

Together they mended the {thing}. [It had a crooked line in the middle.|One could still see where it had
broken.] "[I like it better this way|Now it belongs to both of us]," said {H}. And they [took turns with
it|shared it] [all day|from then on].
""",
    # learning to swim
    """
All the others could swim, but {H} could not. {He} [stood on the sand|sat on a stone] and watched them
[splash and laugh|jump into the water]. "The water is [too cold|too deep] for me," {he} said. But that
was not true. {He} was [afraid|a little afraid].

{Day} {F} the {fkind} sat down beside {him}. "I was afraid too," said {F}. "[Put in one toe first|Start
with your feet]. [I will stay with you|I am right here]." {H} put in one toe. It was [cold|wet], but it
was not so bad.

The next day {he} went in up to {his} knees. Then {he} went in up to {his} [belly|chest]. {F} held {him}
and said, "[Kick, kick, kick|Breathe in and float]!" [Water went up {his} nose.|{H} swallowed some
water.] "[Again|Once more]!" said {H}.

On the [fifth|sixth|seventh] day {F} let go, and {H} did not even see it. {He} swam [one, two, three
strokes|all by {himself}]! "[You are swimming|Look, nobody is holding you]!" [called|shouted] {F}.

{happy}. After that, nobody could get {him} out of the water. "[Come home, it is dark|Supper is ready]!"
called {grand}. "[Only one more minute|One more time]!" called {H}.
""",
    # the first day of school
    """
One [sunny |fine |bright |autumn |]morning it was time for {H} to go to school. {He} had a new {color}
bag and [a new pencil|a shiny apple], but {his} belly felt [strange|full of butterflies]. "[What if
nobody likes me|What if I do it all wrong]?" {he} asked {grand}.

"[Just be yourself|Say hello and smile]," said {grand}. {Gshe} [gave {him} a kiss|held {his} hand as far
as the door]. Inside there were [so many|a lot of] faces. {H} looked at the floor and sat down in the
[last|first] row.

In the next chair sat {F} the {fkind}. {F} had [big eyes full of tears|{f_his} bag over {f_his} head].
"[Are you afraid too|Is it your first day too]?" asked {H}. {F} nodded. {H} [broke {his} apple in
two|moved a little closer]. "[Here|Look]," {he} said. "[We can be afraid together|Two are braver than
one]."

The teacher was a [kind|friendly] old [owl|goose|lady]. They learned [a song about the rain|to count to
ten|the letter A]. At noon they all played [ball|tag] in the sun. {H} and {F} [laughed|ran about] with
the others.

"[How was it|Was it bad]?" asked {grand} in the evening. "[It was too short|We sang, and I have a
friend]!" said {H}. "[Is there school tomorrow too|When can I go again]?"
""",
    # the kite
    """
{Day} {H} made a kite out of [paper and sticks|an old shirt]. It was {color} and had a [long tail|happy
face]. {He} took it to the {place}, where the wind was [strong|good].

Up went the kite, [higher and higher|up, up, up]! It was [above the roofs|as small as a bird]. Then
[snap|ping]! The string broke, and the wind took the kite [over the trees|far away]. {H} ran after it
until {he} [was out of breath|could run no more].

{F} the {fkind} lived [on the other side of the hill|not far away]. "[Did you see a {color} kite|Did my
kite come by]?" asked {H}. "[Yes|I did]," said {F}. "It [is in the top of that tall tree|landed up
there]. [But I cannot climb so high|It is too high for one of us]."

{H} [climbed on {f_his} back|stood on {f_his} shoulders] and took hold of a branch. [A bird flew up.|The
branch shook.] "[A little more|Almost]!" called {F}. At last {H} [had it|reached the tail]. The kite had
[a hole|a tear], and they mended it with [a leaf and some glue|a piece of {color} cloth].

This time they held the string together, [four hands|both of them], and it did not break. [The kite
danced until the sun went down.|The kite flew all afternoon.] "[It flies better with two|Next time we
will make a second one]," said {H}.
""",
    # the dry summer
    """
It had not rained for [many weeks|two months]. The [grass|land] was [brown|dry], and the flowers hung
their heads. There was only a little water left in {H}'s [bucket|well].

{Day} {F} the {fkind} came to the door. "[My well is empty|I have no water at all]," said {F}. "May I
have a cup?" {H} looked into the bucket. If {he} gave some away, there would be [less for {him}|only a
little left]. But {he} said, "[Of course|Take it], my friend."

The next day [a thirsty bird|an old dog|a tired donkey] came, and the day after that [a family of
mice|two small lambs]. {H} [gave each of them a drink|sent nobody away]. In the evening the bucket was
empty. {sad}.

But the others had [talked together|made a plan]. At night they came with [shovels|spoons and shovels]
and dug a hole {hiding}, [deeper and deeper|all night long]. In the morning there was [a shout|a cry]:
"Water! [Cool, clear water|Come and see]!"

"You gave us your last drop," said {F}, "so [this new well is for you|we dug a well for you and for all
of us]." And that very [night|evening], [the clouds came and it began to rain|the first drops fell from
the sky]. {H} stood in the rain and laughed.
""",
    # fireflies in a jar
    """
One [summer |warm |quiet |]evening, when it was almost dark, {H} saw [a tiny light|little lights] at the
{place}. [Blink, blink!|On and off they went.] "Fireflies!" said {H}. {He} ran home for a [glass
jar|jar] and caught [one|a few].

{He} put the jar beside {his} bed. "[Now I have my own stars|Now it will never be dark]," {he} said. But
the lights grew [weaker and weaker|pale]. "[What is wrong with them|Why do they not shine]?" {he} asked.

{F} the {fkind} [looked in at the window|came to see them]. "[They are sad|They miss the night]," said
{F}. "[They can only dance when they are free|A light does not like a lid]." {H} [was quiet for a
while|thought about it]. {He} [did not want to be alone in the dark|loved the little lights].

Then {he} took the jar, went [out of the door|back to the {place}], and opened the lid. One by one the
fireflies flew up. [They shone brighter than before.|They danced around {H} and {F}.] All the air was
full of light.

"[They are not mine, but I can see them every night|It is nicer like this]," said {H}. {He} left the
window open and [slept very well|was not afraid of the dark any more].
""",
    # the painting
    """
{Day} {H} [got|was given] a box of paints. There was red, there was blue, and there was yellow, but {H}
wanted to paint a [green frog|green tree|green hill]. "There is no green," {he} said. {sad}.

{F} the {fkind} came to see what {he} was doing. {F} [sat down on the paints|bumped into the table], and
splash! The blue ran into the yellow. "[Oh no|Oh dear]! [I spoiled it|I am so sorry]!" said {F}.

But {H} [stared at it|bent down]. "Look!" {he} said. "[Blue and yellow make green|It is green]!" Now
they wanted to try it all. Red and yellow made [orange|orange, like a pumpkin]. Red and blue made
[purple|purple, like a plum].

They painted the {place} with [a purple sun|an orange moon], and they painted each other's noses. When
{grand} came in, {gshe} [put {g_his} hands on {g_his} hips|saw the floor]. "[Who made this mess|What
happened here]?" {gshe} asked. "[We made green|We did]!" said {H}.

{Grand} [had to laugh|shook {g_his} head and smiled]. The picture was hung [over the fireplace|on the
wall], and the floor was washed by [two artists|two friends with {color} noses]. "[A mistake can be a
good start|Some accidents are lucky]," said {F}.
""",
    # the little boat
    """
{H} made a boat out of [bark|paper|a nut shell]. It had a {color} sail. {Day} {he} put it in the stream
and let it go. "[Where will you go, little boat?|Have a good trip, little boat!|Go and see the sea!]"
{he} said.

The boat went [round and round|under a bridge|past the ducks] and was gone. {H} walked along the stream.
{He} asked [a frog|a duck]. "It went [that way|down there]," came the answer. {weather}

Far away, {F} the {fkind} was sitting by the water. {F} was [lonely|sad], for {f_he} had [nobody to talk
to|no friends yet]. Then {f_he} saw a [tiny|small] boat with a {color} sail. "[Someone sent me a
boat!|Where do you come from?]" said {F}.

In the evening {H} [came around the bend|heard someone singing]. There sat {F} with the boat in {f_his}
hands. "[Is this yours|Did you make it]?" asked {F}. "Yes," said {H}, "but [I think it wanted to find
you|it found you all by itself]."

They made a second boat, [and a third|with a bigger sail]. And every [week|Sunday] a boat came down the
stream with [a berry|a flower|a small note] in it. [That was how {H} said hello.|So the two friends were
never far apart.]
""",
]

DAY_AND_HERO = "{Day} {H} "
INSIDE_PLACES = re.compile(r"\bat the (forest|garden|meadow|orchard|field|village square)\b")
BEFORE_VOWEL = re.compile(r"\b([Aa]) (?=[aeiouAEIOU])")


@dataclass(frozen=True)
class Pronouns:
    """The four forms of one character's pronoun."""

    he: str
    him: str
    his: str
    himself: str


PRONOUNS = {"f": Pronouns("she", "her", "her", "herself"), "m": Pronouns("he", "him", "his", "himself")}


def draw_hero(rng: random.Random) -> dict[str, str]:
    """The hero's slots: a child or an animal, with a home."""
    gender = rng.choice("fm")
    if rng.random() < CHILD_HERO_SHARE:
        name = rng.choice(GIRLS if gender == "f" else BOYS)
        kind, home = ("girl" if gender == "f" else "boy"), rng.choice(CHILD_HOMES)
    else:
        name, kind = rng.choice(ANIMAL_NAMES), rng.choice(list(ANIMAL_HOMES))
        home = ANIMAL_HOMES[kind] if rng.random() < OWN_HOME_SHARE else rng.choice(WILD_HOMES)
    pronouns = PRONOUNS[gender]
    return {
        "H": name, "kind": kind, "adj": rng.choice(ADJECTIVES),
        "home": home, "home_first": home[0].upper() + home[1:],
        "he": pronouns.he, "him": pronouns.him, "his": pronouns.his, "himself": pronouns.himself,
        "He": pronouns.he.title(), "His": pronouns.his.title(),
    }


def draw_others(hero: dict[str, str], rng: random.Random) -> dict[str, str]:
    """The slots of the friend, who shares neither kind nor name with the hero, and of the elder."""
    friend = PRONOUNS[rng.choice("fm")]
    elder_name, elder_gender = rng.choice(ELDERS)
    elder = PRONOUNS[elder_gender]
    return {
        "F": rng.choice([name for name in ANIMAL_NAMES if name != hero["H"]]),
        "fkind": rng.choice([kind for kind in ANIMAL_HOMES if kind != hero["kind"]]),
        "f_he": friend.he, "f_him": friend.him, "f_his": friend.his,
        "Grand": elder_name, "grand": elder_name,
        "gshe": elder.he, "Gshe": elder.he.title(), "g_his": elder.his,
    }


def draw_world(rng: random.Random) -> dict[str, str]:
    """All the slots of one story."""
    hero = draw_hero(rng)
    place = rng.choice(list(PLACES))
    question, answer = rng.choice(RIDDLES)
    n1, n2 = rng.randint(1, 9), rng.randint(1, 9)
    return {
        **PHRASES, **hero, **draw_others(hero, rng),
        "place": place, "hiding": PLACES[place], "weather": rng.choice(WEATHER),
        "color": rng.choice(COLORS), "thing": rng.choice(THINGS), "find": rng.choice(FINDS),
        "food": rng.choice(FOODS), "baked": rng.choice(BAKED),
        "riddle_q": question, "riddle_a": answer,
        "n1": NUMBERS[n1], "n2": NUMBERS[n2], "n3": NUMBERS[n1 + n2],
    }


def mend_grammar(text: str) -> str:
    """What depends on a neighbouring word: in/on/at a place, a/an, and spaces around empty choices."""
    text = INSIDE_PLACES.sub(r"in the \1", text).replace("at the hill", "on the hill")
    text = BEFORE_VOWEL.sub(r"\1n ", text)
    return re.sub(r" {2,}", " ", text).strip()


def opening(rng: random.Random) -> str:
    """The template of the sentences that introduce the hero."""
    template = rng.choice(ONCE_OPENINGS if rng.random() < ONCE_SHARE else OTHER_OPENINGS)
    return f"{template} {TRAITS}" if rng.random() < TRAIT_SHARE else template


def introduced(plot: list[str], rng: random.Random) -> list[str]:
    """The plot's beats with the hero introduced: in the first sentence, or in an opening before it."""
    first, rest = plot[0], plot[1:]
    if first.startswith(DAY_AND_HERO) and rng.random() < DAY_OPENING_SHARE:
        return ["{Day} a {adj} {kind} named {H} " + first.removeprefix(DAY_AND_HERO), *rest]
    if rng.random() < SAME_PARAGRAPH_SHARE:
        return [f"{opening(rng)} {first}", *rest]
    return [opening(rng), first, *rest]


def document(rng: random.Random) -> str:
    """One story."""
    world = draw_world(rng)
    templates = introduced(beats(rng.choice(PLOTS), " "), rng)
    paragraphs = [mend_grammar(expand(template, world, rng)) for template in templates]
    if rng.random() < JOIN_SHARE:
        joined = rng.randrange(1, len(paragraphs) - 1)
        paragraphs[joined : joined + 2] = [" ".join(paragraphs[joined : joined + 2])]
    if rng.random() < THE_END_SHARE:
        paragraphs[-1] += " The end."
    return "\n\n".join(paragraphs)
