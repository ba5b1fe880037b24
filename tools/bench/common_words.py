"""Common words of biomedical English, written from memory: most of a made-up text."""

# Most frequent first; the other lists are not ordered.
FUNCTION = """the of and in to a with for was were is by that on as from are at this be or an we
not these which after between than have has been but patients cells it their also had may both no
during two study results more all who can its other into using treatment however our associated
expression there when cell only high effect effects showed increased activity one most group
compared each did levels significantly they three human such data low time disease years higher
non well could significant found clinical analysis protein gene use role mice induced total
observed including methods type over age based first same factor risk normal through under up
about out where while if very per will those some before then within without against among via
since although thus therefore here because do does whether being them his her any either new
further another once still toward towards upon versus
""".split()

VERBS = """increase reduce decrease induce inhibit suggest indicate express activate regulate show
report compare measure determine identify observe associate relate treat cause affect reveal
demonstrate require involve mediate produce contain include follow assess evaluate examine
investigate analyze perform detect obtain remain provide develop improve confirm describe present
reflect respond result serve assay bind encode infect inject isolate label link localize mutate
alter block cleave clone combine conclude confer conserve correlate culture damage define deliver
delete depend derive differ differentiate diminish disrupt elevate enhance enrich establish
estimate exhibit explain expose facilitate generate impair implicate influence interact introduce
lack lead limit maintain manage modify modulate monitor occur phosphorylate predict prevent
promote propose protect purify randomize receive recognize recover recruit release repeat replace
represent resolve restore restrict secrete select separate sequence stain stimulate suppress
synthesize target terminate test transfect transfer transform translate transplant trigger
validate accumulate achieve acquire adapt adjust administer admit adopt aggregate allow amplify
apply appear approach arise arrest assemble assign attach attenuate attribute bear belong believe
calculate carry characterize check circulate classify collect compete complete compose consider
consist construct consume contribute convert couple cover decline deplete deposit design destroy
diagnose direct discover discuss display distinguish distribute divide double employ enable
encourage ensure enter equal evolve exceed exclude exert exist expand expect experience extend
extract fail form function gain govern grow harbor help hydrolyze hypothesize illustrate immunize
imply incorporate incubate infer initiate insert integrate interfere internalize invade join kill
learn load lower migrate neutralize note offer operate oppose oxidize participate pass penetrate
persist plate play possess potentiate precede process progress proliferate prolong raise reach
react reconstitute record refer rely remove replicate resemble rest retain reverse review sample
saturate screen seem sensitize share shift signal simulate solve stabilize start store strengthen
stress study submit substitute succeed suffer support survive sustain switch tolerate transmit
transport travel undergo underlie unite vary view visualize want work
""".split()

NOUNS = """patient cell gene protein mutation effect level disease study result analysis group
receptor pathway expression activity response function tissue sample model role factor risk type
treatment therapy dose drug age year day month week hour minute time rate ratio value number case
control subject family population region site domain sequence variant allele exon intron promoter
transcript vector plasmid primer probe antibody antigen marker signal kinase enzyme substrate
inhibitor agonist antagonist ligand complex membrane nucleus mitochondrion vesicle channel pump
transporter hormone cytokine chemokine peptide acid amine lipid sugar steroid vitamin metal ion
calcium sodium potassium iron zinc copper oxygen glucose insulin cholesterol muscle heart liver
kidney lung brain bone blood plasma serum urine skin nerve neuron artery vein vessel wall tumor
cancer lesion metastasis infection virus bacterium strain parasite host rat mouse rabbit dog child
infant adult woman man mother father brother parent sibling cohort trial placebo outcome symptom
sign syndrome disorder diagnosis prognosis severity duration onset stage grade score scale test
measurement method assay technique approach system process mechanism property structure form size
weight length volume density concentration temperature pressure surface change difference increase
decrease reduction loss gain defect deficiency failure injury damage stress death survival growth
development differentiation proliferation apoptosis migration adhesion invasion repair replication
transcription translation phosphorylation methylation interaction association correlation
relationship evidence hypothesis finding observation report review conclusion objective purpose
aim background data information database literature knowledge question problem strategy option
decision cost quality care hospital clinic physician surgery procedure operation complication
admission examination biopsy imaging scan image resonance tomography ultrasound radiation
chemotherapy resistance sensitivity specificity exposure intake diet food water milk alcohol
smoking exercise sleep pain fever cough headache seizure stroke hypertension diabetes obesity
anemia asthma arthritis cirrhosis hepatitis pneumonia sepsis shock ischemia infarction fibrosis
necrosis inflammation edema hemorrhage thrombosis stenosis hypertrophy atrophy dysplasia carcinoma
adenoma lymphoma leukemia melanoma sarcoma glioma macrophage lymphocyte neutrophil monocyte
platelet erythrocyte fibroblast hepatocyte astrocyte keratinocyte oocyte embryo fetus placenta
ovary testis uterus prostate breast thyroid pancreas spleen colon stomach intestine bladder retina
cornea cortex hippocampus cerebellum striatum hypothalamus synapse axon dendrite spine cord marrow
cartilage tendon joint tooth hair nail eye ear nose tongue mouth neck chest abdomen limb hand foot
knee hip shoulder chromosome locus haplotype genotype phenotype polymorphism deletion insertion
duplication inversion translocation frameshift codon residue cysteine serine tyrosine threonine
lysine arginine histidine proline glycine alanine leucine valine tryptophan glutamate aspartate
dopamine serotonin histamine acetylcholine adrenaline morphine nicotine caffeine cocaine aspirin
estrogen androgen progesterone testosterone cortisol thyroxine heparin warfarin cisplatin
tamoxifen antioxidant superoxide peroxide nitrite nitrate sulfate phosphate chloride bicarbonate
ethanol methanol acetate lactate pyruvate citrate ester ketone polymer gel buffer solution medium
solvent particle crystal fiber layer film device instrument software network cluster class
category index parameter variable coefficient interval range mean median average baseline
threshold limit peak phase cycle period course history pattern profile feature character trait
event condition situation environment climate soil plant leaf root seed flower fruit tree crop
yeast fungus worm fly fish frog bird chicken pig sheep cow horse monkey primate species genus
country city area district community society school university government policy program service
training education experience practice guideline standard criterion recommendation agreement
target product component element unit subunit chain loop helix sheet fold motif cleft pocket
interface bond charge electron proton photon wave frequency intensity spectrum band line curve
point step position direction distance space plane axis angle cavity fluid secretion absorption
excretion clearance elimination metabolism synthesis degradation turnover transport uptake release
storage transfer transfection clone library array chip blot stain section slide microscope
microscopy spectrometry chromatography electrophoresis centrifugation hybridization amplification
immunity tolerance vaccine adjuvant toxin poison venom allergen allergy rash ulcer wound burn scar
graft implant stent catheter needle tube valve ability abuse accident account address advance
advice affinity agent aid alarm album alpha amount anatomy answer anxiety arch arm artifact aspect
attack attempt attention attitude author award backbone balance bank barrier base basin bath
battery beam bed behavior belief beta bias bile bill biomarker birth bite block boat body book
border bottom bound box branch bread break bridge budget building bundle business button cage cake
calf call calorie camera camp canal candidate cap capacity capillary capsule car caregiver cascade
cast cat catalog cause ceiling census center chair challenge chance chapter chart cheek cheese
choice cholera circle circuit citizen claim clay client clip clock clot cloud club coat code
coffee cold collagen colony color column comment committee company complaint computer concept
concern conduct cone conflict conformation contact content contest context contract contrast copy
core corn corner corridor couple crack cross crown crisis culture cup current cut cyst dance
danger date deal debate decade degree delay delta demand dentist department depression depth
desert desk detail digit dilemma dinner dioxide disability disc discharge dish display dispute
doctor document door dot draft drainage dream drink drive drop dust duty dye echo economy edge
edition editor effort egg elbow elder elastin emergency emotion employee end endpoint enemy energy
engine entry envelope episode equation equipment era error essay ethics evolution exam example
exception exchange exit expert explosion extent face facility fact faculty faith fall farm farmer
fashion fat fate fault fear feather feedback female field fig file filter finger fire fit flag
flame flap flask flight flock floor flora flow flour focus fork formula forest foundation fraction
fracture fragment frame framework freedom freezer friend fuel furnace fusion future game gamma gap
garden gas gate gaze gender genome geometry giant glance gland glass glove goal goat gold grain
grant graph grass gravity grid grip ground guard guest guide gum gun gut habit habitat half hall
handle harm hazard head health heat height help herb hernia hero highway hill hint hit hold hole
home honey hope horizon house human humor hunger hunter husband ice idea identity impact
implication impulse incentive inch incidence income indicator industry inference ingredient
initiative ink innovation insect insight institute insurance intent interest interview intuition
inventory isoform isotope issue item journal journey judge juice jump juncture key kit kitchen
label labor lake lamp land language larva laser lattice launch law lawyer leader leak lecture lens
lesson letter liability license lid life lift lipase lip list litter load loan location lock log
loom lot lumen lunch machine magnet mail maker manager manner manual map margin market mask mass
master match material matrix matter meal meaning meat mechanic media meeting melatonin member
memory menu message meter microbe middle mile mind mineral minority mirror miscarriage mission
mixture mode module moiety moisture moment money mood morning mosquito motion motive motor
mountain movement mucus murmur museum music myosin myth name nation nature neighbor nest net
newborn niche night node noise norm north note notion nucleotide nurse nut nutrient nutrition
obstacle occasion odds odor offer office oil onion orbit order organ organism orientation origin
outbreak outlet output oven overview owner ozone pace pack page pair palm panel paper paradigm
paradox part partner party passage patch path pause peer pelvis pen percent percentage perfusion
permission person perspective phage phantom philosophy phone photo phrase piece pill pilot pipe
pit pixel place plan plaque plasticity plate platform player pleasure plot poem polarity pole
pollen pollution pond pool pore port portion post posture pot potential powder power precursor
predictor preference premise presence press price pride principle priority prism prison prize
probability producer profession profit progeny project promise proof proportion proposal
prosthesis protease protocol province pulse pupil puzzle quarter queen query quest queue quotient
race radical radius rain ramp rank ray reader reality reason rebel recipe recipient rectum reef
refuge regimen register reject relapse relative relief religion remnant rent repeat request rescue
reserve reservoir resident resin resort resource respect rest retreat return revenue reward rhythm
ribosome rice ring river road rock rod roof room rope round route routine row rule run safety sail
salt sand satellite sauce scaffold scene schedule schema scheme science scope screw sea seal
search season seat sector sense sentence serial series session set shadow shaft shape shell
shelter shift ship shop shore shot show shunt side sight silence silk silver sink sinus sister
skill skull slice slope smell smoke snake snow socket song sound source south spatial speaker
speech speed sperm sphere spike spin spirit split spot spray spread spring square stability staff
stalk stance star start state station statistic status steel stem stereo stick stiffness stimulus
stock stone stop storm story strand stream street strength stretch string strip student stuff
style success suicide suite sum summary summer sun supply surgeon survey suspension suture
swelling swing sword symmetry synergy table tablet tail tank tape task taste tax taxon teacher
team tear tempo tension tent term territory text texture theme theory thesis thigh thing thought
thread threat throat thumb thymus tide tie tile timing tin tip title toe token tone tool top topic
topology torque total touch tower town toy trace track trade tradition traffic tract transition
trap trauma tray trend triangle tribe trick trip truck trunk trust truth tumour tunnel turbine
turn twin twist uncle union universe urea urge usage user utility vacuum valley vapor vehicle
velocity venue version vertebra village vision visit voice void vote wage waist walk war warning
waste watch way wax weapon weather web west wheat wheel wife wind window wine wing winter wire
wish witness wolf wood wool word worker workshop world worry wrist writer yard yield zone
zebrafish
""".split()

ADJECTIVES = """specific different important present similar clinical normal severe acute chronic
early late long short large small great common rare novel recent previous potential possible
primary secondary major minor strong weak positive negative active inactive molecular cellular
genetic genomic functional structural biological chemical physical medical surgical
pharmacological pathological physiological biochemical immune neural neuronal cardiac renal
hepatic pulmonary vascular cerebral cortical spinal muscular skeletal gastric intestinal
colorectal ovarian prostatic mammary endothelial epithelial mesenchymal hematopoietic malignant
benign metastatic invasive aggressive progressive advanced recurrent refractory resistant
sensitive susceptible dominant recessive autosomal familial sporadic inherited congenital somatic
mitochondrial nuclear cytoplasmic extracellular intracellular soluble stable essential critical
crucial central peripheral local systemic oral intravenous subcutaneous topical daily weekly
annual independent dependent relevant consistent distinct unique complete partial total overall
single multiple various several additional alternative natural synthetic recombinant endogenous
exogenous selective nonspecific effective efficient useful safe toxic adverse beneficial
therapeutic diagnostic prognostic predictive experimental theoretical statistical numerical
quantitative qualitative linear nonlinear rapid slow transient persistent permanent constant
continuous frequent occasional regular irregular parallel serial proximal distal anterior
posterior lateral medial dorsal ventral upper inner outer left right adult young old male female
pregnant postmenopausal pediatric elderly healthy affected mutant wild homozygous heterozygous
viral bacterial fungal parasitic infectious septic sterile aerobic anaerobic aquatic marine
terrestrial global national regional social cultural economic public private mental cognitive
behavioral emotional visual auditory sensory motor autonomic sympathetic tonic basal apical mature
immature adaptive innate humoral cytotoxic inflammatory oxidative metabolic catalytic enzymatic
hormonal thermal electrical magnetic optical mechanical dynamic static viable mild moderate marked
mean maximal minimal optimal average equivalent comparable relative absolute direct indirect
spontaneous simultaneous subsequent initial final current prior future likely unlikely unclear
unknown known certain evident apparent obvious
""".split()
