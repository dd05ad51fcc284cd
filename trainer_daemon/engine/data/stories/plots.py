"""The stories themselves. To add one, write ten lines: a title, then beats divided by blank lines.

Each line tells its beat in one way, and exactly one line of a beat is told; an indented line goes on with the one above.
How the braces read is in `grammar.py`, what they may say in `lexicon.py`. What keeps a plot sound:

- Every line of a beat fits every line of the next, so all of them leave the same facts behind.
- A hero, one friend, perhaps a grown-up or a pet, and no more. Say their names often; where `{he}` might be the friend, say the name.
- No word by hand that the lexicon draws (a ball, a colour, a name): it would pass for a fact of this story.
- Old words before new ones: all plots together keep to some 750 at level 1, which is why a small model can learn them.
"""

FRAGMENTS = {
    "Once": "{Once upon a time, there was|There was once|Once there was|Long ago, there was}",
    "little": "{little|small|young|kind|clever}",
    "One day": "{One day|One morning|One sunny day|One afternoon|One fine morning|One bright morning|One fine day|One Sunday}",
    "At last": "{At last|In the end|Soon|After a while}",
    "From then on": "{From that day on|From then on|After that}",
    "every day": "{every day|each day|day after day}",
    "happy": "{happy|glad|very happy|so happy}",
    "sad": "{sad|very sad|so sad|unhappy}",
    "afraid": "{afraid|very afraid|a little afraid|scared|frightened}",
    "smiled": "{smiled|laughed|gave a big smile|smiled from ear to ear|smiled a little}",
    "hero said": "{said {hero}|{hero} said}",
    "hero asked": "{asked {hero}|{hero} asked}",
    "friend said": "{said {friend}|{friend} said}",
    "friend asked": "{asked {friend}|{friend} asked}",
    "adult said": "{said {adult}|{adult} said}",
    "adult asked": "{asked {adult}|{adult} asked}",
    "Do not cry": "{Do not cry|Do not be sad|Do not worry}",
    "What a day": "{It was a {good|fine|happy} day.|What a {good|fine|happy} day it was!|That night, {hero} slept {well|very well}.}",
}

PLOTS = """
# The lost thing

{Once} a {little} {child} named {hero}. {hero} had {a colour} {thing} and took it everywhere{| {he} went}.
{hero} loved {his} {colour} {thing}. {He} {took it everywhere|played with it {every day}|slept with it {every night|at night}}.

{One day}, {hero} {played|went to play} {place.in}. When {he} came home, the {thing} was gone!
{One day}, {he} took the {thing} to the {place}. But {when {he} got home|that night|at bedtime}, {he} could not find it.
{One day}, {hero} went to the {place}{| with {adult}}. {He} {ran and jumped|played all day}, and in the end {his} {thing} was {not there|gone}.

"Where is my {thing}?" {cried|asked} {hero}. {He} looked under the bed and {in every box|behind the door}. It was not there.
{hero} looked {in every room|under the bed and behind the door|high and low}. No {thing}! {He} {was {sad}|began to cry}.

"Think, {hero}," {adult said}. "Where did you have it last?" "{Place.in}!" {hero said}.
{adult} sat down with {hero}. "{Do not cry}," {adult said}. "Where did you {play|go} today?" "{Place.in}," {hero said}.
"When I lose something, I {close my eyes|think back}," {adult said}. {hero} {did|tried} that, too. "{I see it|I know}! It is {place.in}!" {he} said.

They {ran|walked|hurried} back to the {place}. There, {hiding}, was the {colour} {thing}! {hero} {hugged it|held it} {tight|close|for a long time}.
They went {back to look|to see}. {hero} looked {hiding}, and there was the {colour} {thing}! "{Thank you|I am {happy}}, {adult}," {he} said.

# The new friend

{hero} was new in town and had no friends{| yet}. {He} sat alone {place.in} with {his} {colour} {thing}.
{Once} a {little} {child} named {hero} who had no friends{| yet}. {He} played alone {place.in} with {a colour} {thing}.
No one ever played with {hero}. {He} {sat|played|stayed} alone {place.in} and {talked|told stories} to {his} {colour} {thing}.

{One day}, a {friend.child} named {friend} {came by|stopped to look|sat down}. "{What a nice {thing}!|I like your {thing},}" {friend said}.
Then a {friend.child} {came by|stopped to look|walked up}. "I am {friend}," said the {friend.child}. "May I play, too?"

{hero} was shy. {He} looked at {his} {feet|shoes} and {said nothing|did not know what to say}. But {friend} {waited|did not go away}.
{hero} was too shy to {talk|answer}. {friend} {sat down next to {him}|waited} and {smiled}.
"{Hello|Hi}," {hero said} in a {very |}small voice. Then {he} {could not say more|looked at {his} feet}. {friend} {smiled}.

{At last}, {hero} held out the {thing}. "{We can play together|You can hold it|You may have a turn}," {he} said.
Then {hero} gave the {colour} {thing} to {friend}. "{You try|You go first|It is your turn}," {he} said.

They played until {it was dark|it was time to go home|the sun went down}. "{Will you come back tomorrow|Can we play again tomorrow}?" {friend asked}. "Yes!" {hero said}. {What a day}
They {laughed and played|played} all day. That night, {hero} told {adult}, "I have a friend{| now}, and {friend.his} name is {friend}!"

# The race

{hero} the {animal} was {the fastest of all|very fast|faster than the wind}. {He} {talked about it {every day}|told everyone about it|never let anyone forget it}.
{Once} {a animal} named {hero} who could run very fast. "No one is as fast as I am," {he} said {every day}.

"I will race you," said {friend} the {animal2}. {hero} laughed. "You? You are {so|too} slow!"
{friend} was {a animal2}, and {friend.he} was slow. But then {friend} said, "Let us race, {hero}." Everyone {laughed|came to see|came to look}.

They ran. Soon {hero} was far ahead. "I have time to {sleep|rest}," {he} said, and lay down {place.in}.
One, two, three, go! {hero} was soon far ahead. So {he} stopped {place.in} to {sleep|take a nap|rest} in the sun.
{Off they went|They ran}! {hero} looked back and could not {even |}see {friend}. "{This is too easy|I will rest a little}," {he} said, and {slept|lay down} {place.in}.

{friend} did not stop. Step by step, {friend.he} {went on|walked on}, and {friend.he} {passed|walked past} {hero}, who was {still|fast} asleep.
Step by step, {friend} came. {friend.He} saw {hero} asleep {place.in}, {smiled} and went on.
But {friend} {never looked up|did not stop}. {Slowly, slowly|On and on} {friend.he} went. {hero} was {still|fast} asleep when {friend} {passed|walked past}.

When {hero} woke up, it was too late. {friend} had won {the race|{a colour} {thing}}! "{Slow and steady|You never stopped}," {hero said}. "Well done, {friend}."
{hero} woke up and ran, but {friend} was already there. Everyone {clapped|cheered|danced} for {friend}. {From then on}, {hero} never laughed at {friend} again.

# The storm

One night, a {big|loud|wild} storm came. {hero} {hid under the blanket|pulled the blanket over {his} head|could not sleep}.
{hero} was in bed when the storm came. Boom! The {wind|rain} {shook|hit} the {window|house}, and {he} was {afraid}.

Then {he} heard a {little|soft|sad} cry. It was {pet}, {his} {kitten}, {who was|alone} under the bed.
{His} {kitten} {pet} was {afraid}, too. {pet.He} {hid|was shaking} under {the bed|the table|a chair}.

"Come here, {pet}," {hero said}. "I will {keep you safe|take care of you|stay with you}." {He} held the {kitten} {tight|close|for a long time}.
{hero} took {pet} {into bed|under the blanket}. "{Do not be afraid|It is only a storm}," {he} said{| in a soft voice}.

To be brave, {hero} sang {a song|every song {he} knew}. Soon {pet} {closed {pet.his} eyes|was asleep|stopped shaking}.
{hero} told {pet} a story about {a animal} with {a colour} {thing}. {pet} {listened|closed {pet.his} eyes}, and the storm {went away|did not seem so loud}.
"{One, two, three|Let us count}," {hero said}. They counted {how far away the storm was|the {wind|rain} on the window}. {Soon|After a while}, it {was quiet|went away}.

In the morning, {adult} came in. "Were you {afraid|scared}{| of the storm}?" "{Only a little|No}," {hero said}. "I had to {take care of|be brave for} {pet}."
When {adult} came to look, the storm was over. {hero} and {pet} were {both|fast} asleep, {nose to nose|side by side}. The sun {came up|was out}, and {the birds sang|all was well}.

# The missing sugar

It was {friend}'s birthday. "Let us bake {treat.s} for {friend.him}," {hero said} to {adult}.
{hero} wanted to bake {treat.s} for {his} friend {friend}. "{I will help you|We can do it together}," {adult said}.

They mixed {the eggs and the milk|the milk and the eggs}. {hero} {sang|danced|laughed} and did not {look|think}, and the sugar stayed {on the table|in its box}.
{hero} mixed everything in a {big|round} {colour} bowl. But {he} {talked and talked|sang and danced|laughed and sang} and forgot the sugar.
{hero} put in {the eggs|the milk} {first|with care}, and then {the butter|the salt}. {He} {was so happy|sang so loud} that {he} forgot the sugar.

The {treat.s} came out of the oven. {hero} took a bite. "Oh no!" {he} said. "{There is no sugar in it|I forgot the sugar}!"
{At last}, the {treat.s} were done. {adult} took {a|one little} bite and {made a {funny|strange} face|began to laugh}. "Where is the sugar?" {adult.he} asked.

{hero} {was {sad}|wanted to cry}. "{Do not cry}," {adult said}. "{We can try again|Let us try again|We have more eggs}."
"I did it all wrong," {hero said}. "{Everyone does, now and then|That is how we learn}," said {adult}, and they {began|tried} again.
Then {adult} took {one more|a big} bite. "{It is not so bad|The birds will love them}," {adult said}. "{Now|Come}, let us make {new ones|more}!"

This time, {hero} put the sugar in first. {friend} ate {n} {treat.s} and {asked for more|wanted more}! {What a day}
The new {treat.s} were {sweet|soft and sweet}. {hero} gave {n} of them to {friend}. "{These are the best {treat.s} of all|They are so good}!" {friend said}.

# The broken toy

{friend} had a new {colour} {toy}. {hero} wanted to {play with it|hold it|touch it} very much.
{hero} went to play with {friend}, who had a {new|beautiful|shiny} {colour} {toy}.
{friend} {loved|was proud of} {friend.his} new {colour} {toy}. {One day}, {friend.he} let {hero} {hold it|play with it}{| for a while}.

"Please {be careful|take care}," {friend said}. But {hero} {ran|jumped} with it {place.in}, and {{he}|it} fell. Crack! The {toy} was broken.
When {friend} was not looking, {hero} took the {toy} to the {place}. {He} dropped it. Crack! {A piece came off|It broke in two}.

{hero} hid the {toy} {hiding} and {said nothing|ran home}. But {he} felt {bad|sad}, and {he} could not {sleep|eat}.
{hero} was {afraid}. {He} {put|hid} the {toy} {hiding} and {went|ran|hurried} home. All night {he} {thought about it|could not sleep|thought of the {toy}}.
{No one saw it|No one was there}. {hero} put the {toy} {hiding} and {ran|went} home. But {his} {head was full of it|heart was heavy}.

"What is wrong?" {adult asked}. {hero} told {adult.him} everything. "{Tell {friend}|Tell {friend} what you did}," {adult said}.
"{adult}, I broke {friend}'s {toy}," {hero} said at last. "{Then you must tell {friend}|You are brave to say so. Now tell {friend}}," {adult said}.

"I broke it. I am sorry," {hero} told {friend}. {friend} was {sad}, but {friend.he} {was not angry|thanked {hero} for telling the truth}. They fixed the {toy} together{| with glue}.
{hero} gave the {toy} back. "I am {so|very|really} sorry," {he} said. "We can fix it," {friend said}. They did, and {soon|by night} the {colour} {toy} was as good as new.

# The last one

{hero} had one {treat}. It was the last one{|, and the best one}. {He} sat down {place.in} to eat it.
{adult} gave {hero} a {big|sweet|warm} {treat}. {hero} took it to the {place} {and sat down|to eat it}.
There was {only |}one {treat} left, and {adult} gave it to {hero}. {He} {sat down {place.in}|ran to the {place}} and {smelled it|could not wait}.

{friend} came by. {friend.He} had dropped {friend.his} {treat}, and {a animal} had {eaten|taken} it.
Then {hero} saw {friend}, who {looked {sad}|was crying}. "I have {nothing to eat|no {treat}|lost my {treat}}," {friend said}.

{hero} looked at the {treat}. It was {not very big|small}. {He} {thought for a while|looked at {friend}|thought and thought}{| and thought some more}.
"It is mine," {hero} thought. But then {he} looked at {friend}, and {it did not feel good|the {treat} did not look so good}.

So {he} broke it in two. "{This half is for you|One for you, one for me}," {hero} said. {friend} {smiled}.
"Here," said {hero}, and gave half of the {treat} to {friend}. "{Thank you|You are a good friend|You are so kind}!" {friend said}.
{hero} {took a deep breath|smiled} and {broke|cut} the {treat} in two. "{You can have the big half|Here is half for you}, {friend}," {he} said.

It was only half, but it {tasted|was} twice as good{|, because they ate it together}. {What a day}
The next day, {friend} came back with {a fruit}. {friend.He} {broke|cut} it in two and gave half to {hero}. "{Now it is my turn|One for you, one for me}," {friend.he} said.

# Learning to swim

{hero} {wanted to swim|wished {he} could swim}, but {he} was {afraid} of the water.
All the {other|big} children could swim. {hero} could not. {He} {sat|stood} by the water with {his} {colour} {thing}.
{hero} {could run and jump|was not afraid of the dark}, but {he} was {afraid} of {water|deep water}. {He} never {went in|put a foot in}.

"{Come with me|Take my hand}," {adult said}. {hero} put one foot in. {The water was|It was so} cold! {He} {jumped|ran} back out.
{adult} {stood|was} in the water and smiled. "I will {hold you|not let go}," {adult.he} said. {hero} {slowly went in|took one step, then one more}.

That day, {hero} only put {his} {face|hands|nose} in the water. The next day, {he} kicked with {his} {feet|legs}.
"Kick, kick, kick!" {adult said}. {hero} {kicked|tried|kicked hard}. {Water went up {his} nose|Down {he} went}. But {he} tried again{| and again}.

{One day}, {hero} kicked and kicked. Then {he} {looked back|looked}. {adult} was not holding {him}! {hero} was swimming!
"Now swim to me," {adult said}. {hero} took a {big|deep|long} breath. One, two, three... {he} was swimming{| all alone}!

"{Look at me|I can swim|I did it}!" {he} {cried|called|shouted}. {adult} {clapped|laughed|was so proud}. {From then on}, {hero} {was not afraid of the water|swam {every day}}.
{hero} was {happy}. "{Again|Can we do it again}!" {he} said, and they swam until {the sun went down|it was time to go home}.
{hero} came out, {wet|cold} and {so|very} proud. "{Did you see me|Did you see that}, {adult}?" {he} asked. {adult} {smiled}. "{You swim like a fish|You did it all alone}!"

# The seed

{adult} gave {hero} a {little|small|tiny} {colour} seed. {hero} {planted it|put it in the ground} {place.in}.
{hero} found a {little|small|tiny} seed. {He} {took it|went} to the {place} and put it in the ground.
"{What is this|What does it do}?" {hero asked}. It was a {little|small|tiny} seed. "{Plant it|Put it in the ground}," {adult said}. So {hero} planted it {place.in}.

{Every morning|Every day}, {he} gave it water. But {nothing came up|there was nothing to see}. {hero} {waited and waited|was {sad}}.
{He} gave it water and waited. One day went by. {Then two|Then a week}. {Nothing came up|There was only dirt}.

"{It will not grow|My seed is broken}," {hero said}. "{Wait|Give it time}," {adult said}. "A seed {works in the dark|is slow, but it does not sleep}."
"Why does it not grow?" {hero asked}. {adult} {smiled}. "{It grows|A seed grows} {down|under the ground} first," {adult.he} said.

Then the rain came, and after the rain the sun. {One day}, {hero} saw something {tiny|little|small} in the dirt. It was {a leaf|the first leaf}!
So {hero} {waited some more|sang to it}. {One day}, {he} ran out and {stopped|looked down}. There was a {tiny|little|small} leaf!
{hero} {did not stop|went on}. {Rain came|The rain fell}, and then the sun. {One day}, there was {a tiny leaf|something tiny}, looking up at the {sun|sky}!

The leaf {grew|became a plant}, and in the end there was a {big|beautiful} flower. "{You waited well|Well done}, {hero}," {adult said}. {What a day}
{hero} {danced|clapped|jumped for joy}. When summer came, there was a flower as tall as {hero}{| {himself}}. "{You only had to wait|Seeds know what to do}," {adult said}.

# The birthday

It was {hero}'s birthday. But {when {he} woke up|in the morning}, {no one said anything|no one was there}.
{hero} woke up and {smiled}. "It is my birthday!" {he} said. But no one {came|was home}.

{He} went to find {friend}. "{I have no time to play|I must go home}," said {friend}, and {ran away|closed the door|shut the window}.
{He} went to see {friend}. "Do you know what day it is?" "{No|A day like any other}," said {friend}, and {ran away|went away fast}.

{hero} sat alone {place.in}. "{Everyone|They all} forgot my birthday," {he} {said|thought}, and {he} was {sad}.
{hero} walked to the {place} {alone|and sat down}. {He} thought that {no one cared|everyone had forgotten}.

When it {was|got} dark, {he} {went|walked} home. {He} opened the door, and... "Surprise!" cried {friend} and {adult}.
Then {adult} called {him} home. The house was {dark|quiet}. {hero} opened the door, and... "Happy birthday!" {cried|called|shouted} {friend}.
{It was almost night when|At last,} {he} came home. {Something moved|There was a noise} in the dark, and... "Happy birthday, {hero}!" {cried|called|shouted} {friend}.

There were {n} {treat.s} and {a colour} {thing} {for {him}|with {his} name on it}. "We did not forget{| you}," {friend said}. "{It was a secret|We had to hide}!"
{friend} gave {him} {a colour} {thing}, and {adult} had made {n} {treat.s}. "{You did not forget|You are all so good to me}!" said {hero} and {smiled}.

# The noise in the night

One night, {hero} heard a {strange|loud|funny} noise. Bump, bump! {It came from|Something was} under the bed.
Bump! {hero} woke up. It was dark, and there was a {strange|loud|funny} noise {behind|at} the door.
It was late, {and|but} {hero} could not sleep. Bump! {What was that|Who was there}? {Something|It} was {under the bed|at the door}.

"{It|That} is a monster," {he} thought. {He} was {afraid} and {did not move|called for {adult}}.
{He} was {too scared to move|{afraid}}. What {was it|could it be}? A monster with {long teeth|big feet|long arms|{n} heads}?

{At last}, {hero} {was brave|took a deep breath}. {He} took a light and {looked|went to look}.
{adult} came with a light. "Let us {look|see|go} together," {adult.he} said. {They looked|Hand in hand, they looked}.

{Do you know what it was?|There was no monster.} It was {pet} the {kitten}, playing with {a colour} {thing}!
Two {big|round} eyes looked back. It was {only|just} {pet} the {kitten}, with {hero}'s {colour} {thing}!
{He} looked {again|once more}. {It was|The monster was} {small|soft}. It {had|played with} {a colour} {thing}. It was {pet} the {kitten}!

"{Silly|Oh,} {pet}!" said {hero} and {smiled}. {pet} {jumped into bed|wanted to play}, but {soon|then} they both {slept|went back to sleep}.
{hero} laughed {and laughed|out loud}. "{pet}, you are a {very small|funny} monster," {he} said. {Soon|Then} they were both asleep{|, and so was the {thing}}.

# Counting the fruit

{hero} {picked|found} {n} {fruit.s} {place.in}. {friend} {picked|found} {m} {fruit.s}.
{hero} and {friend} went to the {place} to pick {fruit.s}. {hero} picked {n} of them, and {friend} picked {m}.

"I have more{|, I think}," {hero said}. "No, I have more," {friend said}. {Soon they were both angry|They did not talk for a while}.
They {carried|took|brought} them home in {a colour} box{|, which they held together}. "How many do we have?" {friend asked}.

"{Put|Let us put} them all together," {adult said}, "and count{| them}." So they counted{| out loud}. {N} and {m} made {sum}.
{hero} counted {slowly|on {his} fingers|with care}. "{N} {fruit.s} and {m} {fruit.s}," {he} said. "That makes {sum}!"

"{Sum} {fruit.s}!" {adult said}. "That is {just right|enough} for a big {fruit} cake." {hero} and {friend} {helped|washed them|clapped}.
{adult} {clapped|smiled}. "{Sum}! You can count well." {Then|And then} {adult.he} {cut|washed|took} them all.

They {sat|ate|stood} side by side{| in the sun}. "{It is good to have {sum}|{Sum} is good}," {hero said}, "but {it is better to have a friend|a friend is better}."
{hero} and {friend} {ate and ate|had all they could eat}. Of the {sum} {fruit.s}, {not one|none} was left. {What a day}
They ate the first {fruit} {together|bit by bit|in the sun}. "{Next time|Tomorrow}, we will {find|pick} {even |}more," {friend said}. "{More than|Many more than} {sum}!" {What a day}

# The river

{hero} the {animal} wanted to visit {friend} the {animal2} on the other side of the river. But the water was {deep|too deep|cold and deep}.
{Once} {a animal} named {hero}. {His} {best friend|friend} {friend} the {animal2} lived {over|across} the river.

{hero} tried to jump{| over}. {Splash!|Too far!} {He} {came out wet|fell in} and {was {sad}|sat down to think}.
{hero} {called|cried|shouted}, "I cannot {come|get} to you, {friend}!" {friend} {called back|answered}, "{Wait, I will think|Let me think}!"
The river was {fast|wide}, and {hero} {could not swim|was {afraid}}. "{I am stuck here, {friend}!|How can I come over, {friend}?}" {he} {called|cried|shouted}.

There was an old tree by the water. "{Push|Push it}, {friend}!" {hero said}. {They pushed|They both pushed}, and down it came{| with a crash}.
{One day}, the wind {blew|pushed} a tree down. It fell {over the river|from one side to the other}. "Look!" {hero said}.

Now the tree was a bridge. Step by step, {hero} {went over|walked on it}. {He} {did not look down|held on tight}.
{hero} {put one foot on it|was {afraid}}. "Do not look down," {friend said}. "Look at me." And {hero} {did|walked}.

On the other side, {friend} gave {him} a {big |}hug. They ate {n} {fruit.s}{| together} and {laughed|were {happy}}. {What a day}
"{You did it|You are here}!" {cried|said|shouted} {friend}. {From then on}, they {saw each other|played together|were together} every day.

# The kite

{hero} made {a colour} kite. {He} {ran to|took it to} the {place} to fly it.
{adult} gave {hero} {a colour} kite. {One day}, the wind was {strong|just right}, and {hero} ran to the {place}.
There was {a colour} kite {in the window|at the market}. {adult} {bought|got} it for {hero}, who {ran|hurried|went} to the {place} {to fly it|at once}.

Up, up it went{|, over the houses}! Then the wind {pulled|blew} {hard|harder}, and the kite was caught in a {tall|big|very tall} tree.
The {colour} kite {danced in the sky|flew like a bird}. {Snap!|Oh no!} It {was caught in|came down in} a {tall|big|very tall} tree.

{hero} jumped, but {he} {could not reach it|was too small}. {friend} came by. "{I am too small, too|I cannot reach it, either}," {friend said}.
"My kite!" {cried|said|shouted} {hero}. {friend} {heard {him}|ran to help}. {friend.He} jumped, but the kite was too {high|high up}.

"{Get|Sit} on my back," {hero said}. {friend} {did|climbed up} and {reached|pulled}. {friend.He} had it!
Then {friend} {had an idea|smiled}. {friend.He} climbed on {hero}'s back. Now they were as {tall|big} as a {horse|house}! {friend} took the kite.
They {thought|looked up} for a while. Then {friend} {got|climbed} on {hero}'s back, and {up|slowly} {friend.he} {stood|went}. {One more step|A little more}... {friend} {had it|got it}!

"Two are taller than one," {friend said}. {hero} {laughed|smiled} and let {friend} fly the {colour} kite first.
{hero} was so {happy|glad} that {he} {hugged|danced with} {friend}. "Now we {will|can} fly it together," {he} said. {And they did, until it was dark.|{What a day}}

# The picnic

{hero} and {friend} went to the {place} for a picnic. They had {n} {treat.s} and {a colour} blanket.
{adult} gave {hero} {n} {treat.s} for a picnic. {hero} and {friend} put {a colour} blanket on the ground {place.in}.

They ran {off|away} to play{| for a while}. When they came back, the {treat.s} were {gone|all gone|not there}! "{Who took them|Where are they}?" {friend asked}.
But first they {played|ran|sang} in the sun. When they came back, there was not one {treat} left. "Did you eat them?" {hero asked}. "{No|Not me}!" {friend said}.

They saw {little|tiny} crumbs {in|on} the grass. {hero} and {friend} {followed them|went after them}, step by step.
"Look," {hero said}. "Crumbs!" They {followed|went after} the crumbs {all the way|around the blanket} to a {tree|big tree}.

There sat {a animal} with {a|its} {round|full} {tummy|belly}. It {looked|was} {afraid}. "{Oh, you were hungry|You must be hungry}," {hero said}.
Behind {a|the} tree sat {a animal} and its babies. They were eating the {treat.s}. "{They were hungry|Babies must eat}," {friend said}.
{Under the|Behind a} tree, {fast asleep|full and happy}, lay {a animal}. There were crumbs on its {nose|feet}. {hero} {smiled}. "{So it was you|There they went}," {he} said.

{hero} {laughed|was not angry}. They {went|ran|hurried} home and got {m} {fruit.s}, and everyone {ate|had lunch} together.
They {left|put down} the last crumb for the {animal} and {walked|ran|went} home {hand in hand|side by side|together}. "{There is more at home|We can make more}," {friend said}. {What a day}

# The lost pet

{One day}, {hero} {left the door open|forgot to close the door}, and {his} {kitten} {pet} {ran out|ran away}.
When {hero} {woke up|came home|looked up}, {his} {kitten} {pet} was gone. {hero} looked in {every room|every box|the whole house}. No {pet}!

"{pet}! {pet}!" {called|cried|shouted} {hero}. {friend} heard {him}. "I will help you {look|find {pet.him}}," {friend said}.
{hero} ran to {friend}. "{pet} is lost!" "{Do not cry}," {friend said}. "{We will find {pet.him}|I will help you}."

They looked {and looked|all day}. Then {friend} saw {tiny|little|small} {tracks|steps} in the dirt. They {followed them|went after them} to the {place}.
They {asked everyone|walked all over town}. {At last}, {an old man|a woman} said, "I saw a {kitten} {place.in}." They ran there.

There, {hiding}, was {pet}. {pet.He} was {wet|cold|tired} and {afraid}. {hero} picked {pet.him} up and held {pet.him} {close|tight}.
{hero} heard a {soft|little|sad} cry. {pet} was {hiding}! "{Here you are|I found you}," said {hero}, and {pet} {jumped into {his} arms|ran to {him}}.

At home, {pet} ate {and ate|all {pet.his} food} and {slept on {hero}'s bed|fell asleep}. {From then on}, {hero} {always closed|never forgot to close} the door.
{hero} made {pet} {a colour} collar{| with {pet.his} name on it}. "Now everyone will know {that you are mine|where you live}," {hero said}{| to {pet}}.
From the {place}, {hero} carried {pet} {all the way home|home in {his} coat}. "{Never|Do not ever} do that again," {he} said. {pet} {closed {pet.his} eyes|fell asleep} {at once|in {his} arms}.

# The market

{hero} had {n} pennies. At the market, {he} saw {a colour} {thing}. {He} wanted it {very much|more than anything}.
At the market, {hero} saw {a colour} {thing}. "{It is so beautiful|I want it so much}!" {he} said. But {he} had only {n} pennies.

"It is {sum} pennies," said the {old man|woman}. {hero} {counted|looked at|held out} {his} {n} pennies. It was {not enough|too little}.
"How much is {it|the {thing}}?" {hero asked}. "{Sum} pennies," said the {old man|woman}. {hero} {counted {his} own|had too few} and was {sad}.

So {hero} went home and washed {the windows|the floor|all the plates} for {adult}. {adult} gave {him} {m} pennies.
"You can {work for it|help me}," {adult said}. {hero} washed {the windows|the floor|all the plates}, and {adult} gave {him} {m} pennies.

"{N} and {m} make {sum}," {hero} {counted|said}. "{I have enough|It is enough}!" {He} {ran|hurried|went} back to the market.
"I had {n}, and now I have {m} more," {hero said}. "That makes {sum}!" {He} {ran|hurried|went} back to the market.

The {thing} was still there! {hero} took it home and {loved it|took good care of it}, because {he} had worked for it.
{hero} {bought|got} the {colour} {thing} and {showed it to {friend}|ran to {friend}}. "{Look|See}, {friend}! I worked for it{| {myself|all day}}!"
{hero} {put down|counted out} {sum} pennies and took the {colour} {thing}. {It was better than|{He} loved it more than} {a gift|all {his} toys}, because {he} had worked for it.

# The first snow

{hero} {woke up and ran to the window|looked out of the window}. {It was the first snow{| of the year}|There was snow on everything|The world was under snow}!
It had snowed all night. "{Get up|Come out}, {hero}!" {called|cried|shouted} {friend} at the {window|door}.
{adult} opened the {door|window}. "{Look|See}, {hero}! {Snow|It has snowed}!" {hero} {ran|jumped} out to {find|call} {friend}.

{hero} and {friend} made a {big|tall|fine} snowman {place.in}. They gave him {a long|a funny|a big round} nose and {n} {round|little} stones{| for a mouth}.
They ran to the {place} and made a snowman as tall as {friend}. He had a {long|funny} nose and {n} {round|little} stones for a mouth.

"He looks {cold|sad}," {friend said}. So {hero} gave him {his} own {colour} coat. {Now {hero} was cold|Soon {hero} began to shake}.
"Are you {cold|well}, snowman?" {hero asked}. The snowman said nothing, so {hero} put {his} own {colour} coat around him.
{All day|Day and night}, the snowman stood {in the wind|alone}. "He {must be|is} so cold," {hero said}, and gave him {his} own {colour} coat.

"You are {funny|silly|too kind}, {hero}!" {friend said}. "A snowman {likes|loves|needs} the cold. It is the sun that he {does not like|is afraid of}."
{adult} came out and laughed. "{hero}, a snowman {likes|loves|needs} the cold! {You are the one who needs a coat|Take your coat back}."

{hero} took {his} coat back. When the sun came, the snowman was gone. "{Good night, snowman|He went home}," {hero said}. "{See you next year|He will come back with the snow}."
{hero} took the coat back{| and laughed}. They had hot milk and {treat.s}, and the snowman {looked in at|waved at|stood by} the window.

# The painting

{One day}, {hero} painted {a animal} for {friend}. {It was almost done|{He} painted all day}.
{hero} sat {place.in} with {his} paints. {He} {wanted to paint|was painting} {a animal} for {friend}.

Then {his} {hand|arm} hit the paint. Drip, drip! There was a big {colour} {spot|mark} on the paper.
But the wind blew{| hard}, and the paint fell over. {Oh no!|Drip, drip!} Now there was a big {colour} {spot|mark} {next to|over} the {animal}.

"{It is no good|It is all wrong} now!" {cried|said|shouted} {hero}. {He} wanted to {throw it away|cry}.
{hero} was {sad}. "{No one will like it|I cannot give this to {friend}}," {he} said.
"Now {friend} will {laugh at|not like} it," {hero said}. {He} {put the paper down|turned away} and was {sad}.

{adult} came to look. "I see no {spot|mark}," {adult.he} said. "I see {a colour} {thing} for the {animal}." {hero} {looked again|began to smile}.
"Look {again|well}," {adult said}. "What could it be?" {hero} looked {this way and that way|for a long time}. "{A colour} {thing}!" {he} said.

So {hero} {painted|gave it} {a few|one or two} more lines, and the {animal} had {a colour} {thing}. "{It is beautiful|I love it}!" {friend said}.
So {hero} {painted some more|painted on}. "{I love|I like} the {thing} best," {friend said}, when {friend.he} saw the {animal}. {hero} {smiled}.

# The secret

{hero} had a secret. {He} was making {a colour} {thing} for {adult}{|, who would have a birthday soon}.
Soon it would be {adult}'s birthday. {hero} worked on {a colour} {thing} {every day}, {and no one could know|but only at night|behind a closed door}.

"What {are you making|do you have there}?" {friend asked}. "{I cannot tell you|It is a secret}," {hero said}.
{friend} came by. "{Tell me|What is it}, {hero}? {I will not tell anyone|I can keep a secret}!" {hero} only {smiled}.
"Come {out|and play}!" {friend said}. "{I cannot|Not now}," {hero said}. "{I have something to do|I have to work}, but {it is a secret|I cannot tell you what}."

Then {adult} {came in|opened the door}! {hero} {sat on the {thing}|hid the {thing} {under the bed|behind {him}}}. "{Nothing|I am not doing anything}!" {he} said, and {his} face was {hot|very hot}.
"{hero}, why is your door closed?" {adult asked}. {hero} {hid the {thing} under the bed|sat on the {thing}}. "I am... {counting my toes|asleep}!" {he} called.

{At last}, the day came. {hero} gave {adult} a box {with the {thing} in it|and could not wait|tied with string}. "{Open it|Open it now}!" {he} said.
On the birthday, {hero} {ran|went} to {adult} with a box. {adult} opened it slowly{|, so slowly}.

"{A colour} {thing}!" {adult said}. "I {never knew|did not know}!" {It is hard to keep a secret, but {hero} had done it|{hero} {laughed|danced}. Now everyone could know}.
In the box was the {colour} {thing}. {adult} {held it {close|tight}|began to cry}, because {adult.he} was so happy. "{You made this for me|It is the best of all}!" {adult.he} said.
{adult} {laughed|cried} and {hugged {hero}|put it on the table for all to see}. "{So this was your secret|Now I know what you did in there}," {adult said}. "{A colour} {thing}!"

# The promise

{friend} was {sick|sick in bed} and could not go out. "I will come and {play with you|tell you a story}," {hero said}. "I promise."
{hero} made a promise to {friend}, who was sick. "I will come to see you today{|, and bring you {a treat}}."

On the way, {hero} saw {n} children. They were playing {place.in} with {a colour} {thing}. "{Come and play|Play with us}!" they called.
{hero} walked past the {place}. {N} children were there with {a colour} {thing}. "Come, {hero}! {We need one more|It is so much fun}!"

{hero} {stopped|looked at the {thing}}. It looked like so much fun! But then {he} thought of {friend}, {alone in bed|who was waiting|and the promise}.
{hero} wanted to {play|stay} very much. {He} {stood|stopped} for a while. Then {he} thought of {friend}{| at the window}.
The {sun was|day was} so {warm|bright}, and the {thing} was so {beautiful|nice}. {hero} {took one step|almost said yes}. Then {he} thought of {friend}.

"I cannot," {hero said}. "I made a promise." And {he} {ran|walked on}{| all the way} to {friend}'s house.
"{Not today|Tomorrow}," {hero said}. "Today {friend} is waiting." And {he} {ran|walked|hurried} on.

{friend} was at the window. "{You came|I knew that you would come}!" {friend.he} said. {That was better than any game|They laughed until the sun went down}. {What a day}
"{I was afraid that you would forget|I thought that you forgot}," {friend said}. "I {said that I would come|made a promise}," said {hero}, and sat down {on|next to} the bed.

# The leaves

{neighbour} was old and lived alone next to {hero}. {The yard|All the ground} was {full of|deep in} leaves, but {neighbour.his} back hurt.
Next to {hero} lived {neighbour}, who was very old. {One day}, {neighbour} {stood|sat} at the {gate|window|door} and looked at {all the leaves|the fallen leaves}{| in the yard}.

"I can help you," {hero said}. {He} worked {all day|until dark|all morning} and made a {hill|mountain} of leaves.
{hero} {did not wait to be asked|ran to help|went to help at once}. {He} put all the leaves in one {big |}{hill|mountain}{| as tall as {himself}}.
{hero} {took|got} a big bag and {went|ran|hurried} over to {help|work}. {Leaf by leaf|Bit by bit}, {he} made a hill{| as tall as {himself}}.

"How can I thank you?" asked {neighbour}. "{Tell|Please tell} me a story{| about when you were small}," {hero said}.
{neighbour} came out with {n} {treat.s}. They sat down, and {neighbour} told {hero} a story{| from long ago}.

"When I was {little|a {neighbour.child}}," said {neighbour}, "I had {a colour} {thing}. I {jumped|ran} in the leaves with it{| {every day}}."
It was about a {neighbour.child} with {a colour} {thing}, who {loved to jump|jumped} in the leaves. "{That was me|I was that {neighbour.child}}," said {neighbour}.

{hero} {smiled}. "Can you still jump?" They took hands, and one, two, three! They both {jumped|fell} into the leaves.
{hero} looked at the leaves, and {neighbour} looked at {hero}. {Then|One, two, three...} they {both jumped|jumped in}! {From then on}, they were friends.
"{May I|May we}?" {hero asked}. {neighbour} {smiled}. {Leaves flew everywhere|Up went the leaves}, {and|as} they {both laughed|jumped} like {little|small} children.

# The flute

{adult} gave {hero} a flute. {hero} {blew into it|tried to play}. Toot! It {sounded|was} like {a animal} with a cold.
{hero} found an old flute {place.in}. {He} {blew|tried to play}. Toot, toot! It sounded like {a animal} {with a cold|who was angry}.

{pet} the {kitten} {hid under the bed|ran away}. "{It is too loud|Not so loud}!" {said|called} {friend}, and {closed the window|ran away, too}.
"{Stop|Please stop}!" {friend said}. {Even {pet} the {kitten}|{pet} the {kitten}} {ran away|hid behind the door}.

But {hero} {did not stop|went on}. {He} played {place.in}, where no one could hear{| {him}}. {He} played {every day}.
{hero} was {sad}. "{Play a little every day|Give it time}," {adult said}. So {hero} {tried|did}, and {every day} {he} played {better|a little better|more softly}.
"{I will learn it|I want to learn}," {hero said}. {Every morning|Every night}, {he} {went out|sat alone} and played {place.in} {until {his} fingers hurt|to the birds}.

One night, {friend} could not sleep. {hero} {took|picked up} the flute and played a {soft|slow|sweet} song. {friend} closed {friend.his} eyes.
{One day}, {friend} was {sad}. {hero} {sat down next to {friend.him}|said nothing}. {He} played a {soft|little|sad} song on the flute.

"{Do not stop|Play it again}," {friend said}. {pet} the {kitten} {came back|sat down} to listen, too.
{When the song was over|After that}, {friend} {smiled}. {pet} the {kitten} was {asleep|on {hero}'s feet}. "{That was beautiful|You can really play}," {friend said}.

# The paper boat

{hero} made a boat of {colour} paper. {He} {wrote|put} {his} name on it and {put|set} it on the river.
{hero} had no one to play with. So {he} made a {little|small} {colour} boat, wrote "{I am {hero}|My name is {hero}}" on it, and put it on the river.

{Away|Off} it went, past the trees, past {a animal} and {n} {little|sleepy|hungry} {animal2.s}{|, and then it was gone}.
The boat {danced|jumped|went up and down} on the water. {hero} {waved|ran after it}, but it went past {n} {animal.s} and was {soon gone|gone}.

Far away, a {friend.child} named {friend} saw {something {colour}|the boat}. "{A boat|Look}!" said {friend}, and {pulled|took|fished} it out.
Down the river lived {friend}. {friend} saw the {colour} boat {come by|in the water} and {took|pulled|fished} it out. "{Who is {hero}?|It has a name on it!}" {friend said}.
The next {day|morning}, a {friend.child} named {friend} {sat|stood} by the water. What was that? {A colour} boat! {friend} {took|pulled|fished} it out.

{friend} went up the river, {step by step|past the trees}, and asked everyone, "{Are you {hero}|Do you know {hero}}?"
{friend} wanted to give the boat back. So {friend.he} walked {up the river|all day}, with the boat in {friend.his} {hands|bag}.

{At last}, {friend} found {hero}. "{Here is your boat|I have your boat}," {friend said}. {From then on}, they {sailed two boats|made boats together}.
{hero} was {by the water|at home} when someone called {his} name. It was {friend}, with the {colour} boat! "{It found me a friend|You found it, and you found me}," said {hero}{| and {smiled}}.

# The loose tooth

{hero} had a loose tooth. It {moved|went} this way and that way, but it did not {want to come|come} out.
One of {hero}'s teeth was loose. {He} {pushed|moved} it with {his} {tongue|finger} {every day}.

"{Let me pull it|I can pull it} out," {friend said}. "No!" {hero said}. {He} was {afraid} that it would hurt.
"My tooth came out when I {ate {a treat}|fell over}," {friend said}. "Did it hurt?" {hero asked}, who was {afraid}. "{A little|Not much}," {friend said}.

{hero} {did not want to eat|only drank milk}. {He} sat {place.in} with {his} mouth closed{| all day}.
So {hero} did not {talk|laugh}, and {he} did not eat. {He} {sat|just sat} {place.in} and held {his} {colour} {thing}.
{hero} {put a hand over {his} mouth|closed {his} mouth} and went to {sit|be alone} {place.in}. "{I will keep it for ever|No one may touch it}," {he} thought.

Then {adult} gave {him} {a fruit}. It looked so {good|sweet|ripe} that {hero} forgot the tooth and {took a bite|bit into it}.
{adult} {came by|came} with {n} {fruit.s}. {hero} was so hungry! {He} {forgot about the tooth|picked one} and {took a big bite|began to eat}.

"{Oh|Ow}!" There was the tooth, in the {fruit}! "It did not {even |}hurt," said {hero}, and {smiled}.
Then {he} stopped. The tooth was in the {fruit}! {hero} {ran to|went to see} {friend}. "{Look|See}! {I ate it out|Now I have a hole, too}!"

# The baby bird

{hero} found a baby bird {place.in}. It had {fallen out of|lost} its nest, and it was {cold|too small to fly}.
{One day}, {hero} {heard|saw} a baby bird {place.in}. It {could not fly|was cold and {afraid}}.

{He} {took|carried} it home in {his} {hands|coat} and made it a bed of {soft grass|leaves|paper} in {a colour} box.
"{Do not be afraid|I will take care of you}, little bird," {hero said}. At home, {he} put it in {a colour} box with {soft grass|leaves|paper}.

{All day|All day long}, the bird {was hungry|wanted to eat}. {hero} gave it {seeds and water|little seeds}, and it grew {and grew|strong}.
{hero} named it {pet}. It {slept next to {his} bed|ate out of {his} hand}, and {every day} it grew a little.
{It was hard work|It was not easy}. {hero} {got up at night|ran here and there} to find {seeds|food}, and the bird {ate and ate|was always hungry}.

{One day}, it {sat|jumped} on {hero}'s hand and looked {out|at the sky}. "{It wants to fly|It is time}," {adult said}. {hero} was {sad}, but {he} opened the window.
"A bird must fly," {adult said}. {hero} {did not want to let it go|was {sad}}. But {he} {opened|went to} the window and held out {his} hand.

The bird flew {up and away|once around the house and was gone}. But every morning, it came back to sing {for {hero}|at the window}.
Up, up it flew! {hero} {waved|was {sad} and {happy}}. The next {year|summer}, {a bird sang at {his} window|there was a nest by {his} window}. {hero} knew who it was.

# The wish

One night, {hero} saw a star fall{| from the sky}. "{Make a wish|You can make a wish}!" {adult said}.
{hero} could not sleep. {He} {sat at|looked out of} the window and saw a star fall. "{I can|Now I can} make a wish," {he} {said|thought}.

What did {he} want? {A colour} {thing}? {N} {treat.s}? {hero} {thought and thought|closed {his} eyes to think}.
There was {a colour} {thing} that {hero} {wanted very much|liked}. {He} wanted {n} {treat.s}, too. {It was so hard to choose.|What should it be?}

Then {he} thought of {friend}. {friend} was sick and had not {played|come out} for a {week|long time}.
But {friend} was sick{| in bed}. {hero} looked over at {friend}'s window and thought of how they {played|laughed} {place.in}.

"{I wish that {friend} would get well|Please make {friend} well}," {hero said}{|, as softly as {he} could}.
So {hero} {wished|closed {his} eyes and wished} for {friend} to get well. It was {easy|not so hard}, after all.

{In the morning|The next day}, {friend} was at the door! "{I feel better|I am well}," {friend said}. "{Will you play with me|Can you come out}?" {hero} {ran out|jumped up} so fast that {he} forgot {his} shoes.
A few days later, {friend} {was well|came out to play} and gave {hero} {a colour} {thing}. "I made it {in bed|for you}," {friend said}. {hero} {smiled}. {Wishes are strange|A star had heard {him}}.
In the morning, {hero} {ran to see|went to} {friend}. {friend} was {up|out of bed} and {eating {a treat}|singing}! "{I feel so good today|I am well}," {friend said}. {hero} {smiled}.

# Hide and seek

"{Close your eyes and count|You count}, {friend}! I will hide," {hero said}. They were playing {place.in}.
{hero} and {friend} played hide and seek {place.in}. {friend} closed {friend.his} eyes and {counted|began to count}: "One, two, three..."

{hero} hid {hiding}. It was a {very |}good place. {He} {made no noise|kept quiet|did not move} and waited{| and waited}.
{hero} found a good place {hiding}. {No one could see {him}|It was {dark|warm} and quiet}, and soon {he} {was asleep|fell asleep}.
{hero} ran {fast|on soft feet} and hid {hiding}. {He} {laughed a little|held {his} breath}. "{No one|Nobody} will find me here," {he} thought.

{friend} looked {everywhere|high and low}, but {hero} was not there. "{Come out|You win}, {hero}!" {called|cried|shouted} {friend}.
"{hero}! Where are you?" {called|cried|shouted} {friend}. {friend.He} {looked and looked|looked up and down}, and {began to be {afraid}|was {sad}}.
{friend} {looked|went} this way and that way. {No {hero}!|Where was {hero}?} "{I give up|Come out now}!" {called|cried|shouted} {friend}. {No one|Nobody} {came|answered}.

Then {pet} the {kitten} came by. {pet} {put {pet.his} nose {down|in the air}|looked here and there} and {went|ran|hurried} to where {hero} was.
{friend} ran to get {pet}, {hero}'s {kitten}. "{Where is {hero}|Where can {hero} be}, {pet}?" And {pet} {did not look long|ran and ran}.

"{Found you|There you are}!" {friend said}. {hero} was {still |}{hiding}, nose to nose with {pet}. "{That was not fair|You had help}," said {hero} and laughed.
There was {hero}, {hiding}. "{Next time|Now}, {pet} {can|will} hide," {hero said}, "{and we will|and you and I can} look together."

# The tower

{hero} {made|built} a tower {place.in}. {He} put {n} {colour} stones one on the other.
{hero} wanted to build {a big tower|a tower as tall as {adult}}. {He} had {n} {colour} stones{| and a good place {place.in}}.

{friend} came with {m} more stones. "{N} and {m} make {sum}," {hero said}. "{That will be tall|Now it will be tall}!"
"I have {m} stones," {friend said}. "{Can I put them on|Can I help}?" {hero} counted. "{N} and {m}... That makes {sum}{| stones}!"

{Slowly|Step by step}, the tower {grew|went up}. Then {the wind blew|{a animal} ran by}, and crash! All {sum} stones {fell down|were on the ground}.
They {put|built} it up, one by one. But {a animal} {bumped into it|jumped up to see}. Crash! There was no tower{| now}.

"{You did it|It was your stone}!" {hero said}. "{No|It was not me|That is not true}!" {friend said}. They {sat back to back|did not talk} for a while.
{hero} {was {sad}|began to cry}. "{It is all over|Our tower is gone}," {he} said. {friend} {sat down next to {him}|took {his} hand}.

Then {friend} {put down|picked up} one stone. {hero} {took one, too|put one on it}. They built the tower again, and all {sum} stones {stayed|held|stood still}.
"Do you know what is {fun|the best}?" {friend asked}. "{To build it again|Now we can build it again}!" And {so they did|they built it even better}. {What a day}
"{It was a good tower|It was the best tower}," {friend said}. "{Let us|We can} make one more." {So|And} they {did|built it again}, and {all {sum} stones|it} {stayed|held|stood still}.

# The big coat

It {rained|began to rain} when {hero} and {friend} were {place.in}. {hero} had a {big|long} {colour} coat. {friend} had none.
{hero} had {a colour} coat that was too big. One {day|afternoon}, {he} was {place.in} with {friend}, and it began to rain.

{friend} {stood|sat} under a tree, but the {rain|water} came {down|in}. {friend.He} was {wet|cold} and {began to shake|very quiet}.
"{I have no coat|I am so wet}," said {friend}, and {began to shake|tried to smile}. The rain ran down {friend.his} nose.

"Come {here|under my coat}," {hero said}. "{It is big enough for two|There is room for two}." So {friend} {came in|put one arm in}.
{hero} {opened the coat|held out one side of the coat}. "{It is too big for one|There is room in here}," {he} said. {friend} {jumped|came} in.

They {walked|went} home in one coat, with {two heads|four legs}, like {a funny|a strange|one big} animal.
Side by side they {walked|ran}. Left foot, right foot... {They fell over|Splash}! They {both laughed|laughed so hard that they had to stop}.
{They ran|They walked} and {sang|laughed}, {left, right, left, right|step by step}, {warm and dry|dry and happy|two in one coat} all the way home.

"{What is this|Who is this}?" asked {adult} at the door. "{We are {a animal}|We are one big {animal}}," {hero said}, "{and we are hungry|and we want {treat.s}}." {What a day}
{adult} gave them {n} {treat.s} and {hot milk|something to drink}. "{I hope that it rains tomorrow|I love the rain}," said {friend}{| and {smiled}}.

# Something found

{One day}, {hero} was {place.in}. There, {hiding}, was {a colour} {thing}! "{What luck|Now it is mine}!" {he} said.
{hero} found {a colour} {thing} {place.in}. It was {hiding}. "{It is so nice|It is beautiful}! I will keep it," {he} said.

"{Whose is it|Is it yours}?" {adult asked}. "{I found it|I found it, so it is mine}," {hero said}, but {he} {did not smile|looked at {his} feet}.
{He} showed it to {adult}. "{Someone may miss it|Someone has lost it}," {adult said}. {hero} {said nothing|held the {thing} {tight|close|for a long time}}.

That night, {hero} could not sleep. {Who had lost the {thing}|Whose was it}? {Was someone {sad}|Did someone cry}?
{hero} put the {thing} next to {his} bed. But {he} {felt bad|could not sleep}. {He} thought of {someone {sad}|a child who was crying} in the dark.
At night, {hero} {looked at|held} the {thing}. {It was not so nice now|It looked {sad}}. "{Someone wants you back|You are not mine}," {he} said{| to it}.

{In the morning|The next day}, {hero} {took it|went} back to the {place}. There was a {friend.child} looking {hiding}. It was {friend}.
So {hero} {went from door to door|asked everyone}: "{Is this yours|Did you lose {a thing}}?" {At last}, a {friend.child} named {friend} opened a door.

"{My {thing}|You found my {thing}}!" {cried|said|shouted} {friend}. "{Thank you|You are so good}!" {hero} gave it back and felt {happy}. {It was better than to keep it|Now {he} had a friend}.
"{Oh, my {thing}|That is mine}!" said {friend} and hugged {hero}. {From then on}, they played with the {colour} {thing} together.
"""
